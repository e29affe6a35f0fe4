"""Advice on technique and settings before anything is trained."""
