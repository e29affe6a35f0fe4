"""Selectors of the rows to label next, one file each."""
