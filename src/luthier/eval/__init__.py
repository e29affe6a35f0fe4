"""Evaluation: run models on held-out rows and tasks, compare them in pairs, apply gates, and write reports."""
