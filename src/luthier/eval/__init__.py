"""Measure a model on held-out rows, compare it in pairs, decide, and report."""
