"""Recognizers of names, one file each."""
