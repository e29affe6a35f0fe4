"""Shared bench: find, load, describe, merge and export models; the packed log-probability engine."""
