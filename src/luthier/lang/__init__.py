"""Languages, word lists and demographic terms."""
