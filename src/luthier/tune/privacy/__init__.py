"""Differential privacy of a training: what it costs, and the noise that a bound asks for."""
