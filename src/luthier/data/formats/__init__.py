"""Readers of file formats: a path becomes records with their lines, or says what is broken and where."""
