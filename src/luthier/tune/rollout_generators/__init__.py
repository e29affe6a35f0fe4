"""Rollout generators: external servers that sample completions for a policy, one file each."""
