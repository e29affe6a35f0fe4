"""Rollouts: sample completions from the policy, score them, and turn them into training examples."""
