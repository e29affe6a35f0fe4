"""Operators on rows, one file each."""
