"""Rollouts: sample completions from the policy, score them, and make training examples of them."""
