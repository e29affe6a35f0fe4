"""Explainers, one a module."""
