"""Searching for words: which prompts are tried, how each is scored, and which goes on."""
