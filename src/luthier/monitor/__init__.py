"""Watching: signals over traffic, and alerts over signals."""
