"""Readers of file formats: a path becomes records with their lines, or an error with its location."""
