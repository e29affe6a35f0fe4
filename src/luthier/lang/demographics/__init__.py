"""Demographic terms in English texts, and the same text about another group."""
