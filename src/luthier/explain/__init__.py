"""Explain why a model answers as it does: which parts of the prompt it uses, and how far that can be trusted."""
