"""The embedders: one file each."""
