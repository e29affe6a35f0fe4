"""Environments: what answers a model between two of its turns."""
