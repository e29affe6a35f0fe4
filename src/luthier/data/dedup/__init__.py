"""Deduplication: exact, near and semantic duplicates, and contamination."""
