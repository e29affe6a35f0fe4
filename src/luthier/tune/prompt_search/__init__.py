"""Prompt search: generate candidate prompts, score them, and keep the best."""
