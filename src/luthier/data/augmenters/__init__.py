"""Kinds of augmenters, one a file."""
