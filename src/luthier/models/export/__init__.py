"""Export a model with its card, and check the copy."""
