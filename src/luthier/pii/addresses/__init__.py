"""Postal addresses in a text, by rules."""
