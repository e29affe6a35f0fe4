"""Prefix-tree packs: forward passes that compute a shared prefix once."""
