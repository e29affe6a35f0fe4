"""Text embeddings: the role `embedder` and sentence encoders."""
