"""Judgments by people, by rules and by models, and what is decided from them."""
