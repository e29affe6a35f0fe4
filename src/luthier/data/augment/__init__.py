"""Augmentation of training rows: requests, checks of the generated rows, and counts of both."""
