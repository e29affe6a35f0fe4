"""Influence methods, one a module."""
