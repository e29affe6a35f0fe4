"""Objectives: what is wanted of the model."""
