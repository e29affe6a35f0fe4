"""Families of multimodal models, one a file; a new file is discovered automatically."""
