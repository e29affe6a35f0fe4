"""Choosing: advice, and steps that drive other steps to search settings and to draw learning curves."""
