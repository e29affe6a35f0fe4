"""A data set out again: exports with a card, and findings as files."""
