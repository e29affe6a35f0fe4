"""Tuning over sites whose rows stay there: a recipe travels, and sums come back."""
