"""Optimizers: how gradients become updates."""
