"""Techniques: which weights are trained, one file each."""
