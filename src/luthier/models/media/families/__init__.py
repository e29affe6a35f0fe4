"""Families of models that read pictures, one a file; a new file is found by itself."""
