"""Rows through operators in streaming passes, in bounded memory, with books that balance."""
