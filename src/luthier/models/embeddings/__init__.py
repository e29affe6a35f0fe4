"""Vectors of texts: the role of an embedder and sentence encoders."""
