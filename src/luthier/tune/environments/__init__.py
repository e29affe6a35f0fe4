"""Environments that respond to the model between its turns, one file each."""
