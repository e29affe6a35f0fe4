"""Scorers that need no model."""
