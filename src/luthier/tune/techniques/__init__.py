"""Techniques: which weights move."""
