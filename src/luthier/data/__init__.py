"""Data: read sources, prepare rows with operators, and write a dataset, with a reason for every dropped row."""
