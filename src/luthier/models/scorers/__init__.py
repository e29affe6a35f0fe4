"""Scorers that use a model (a judge, a base model, an encoder), one file each."""
