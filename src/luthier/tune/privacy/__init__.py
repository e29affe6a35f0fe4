"""Differential privacy of a training: its accounting, and the noise for a given budget."""
