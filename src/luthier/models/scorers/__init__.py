"""Scorers that ask a model (a judge, a base model, an encoder), one file each."""
