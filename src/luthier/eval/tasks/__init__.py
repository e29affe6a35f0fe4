"""Evaluation tasks beside the held-out rows, one file each."""
