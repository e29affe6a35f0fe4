"""Techniques, which decide the trained weights, one file each."""
