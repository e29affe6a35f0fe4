"""Export of data sets with a card, and of findings as files."""
