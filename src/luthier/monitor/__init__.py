"""Monitoring: signals over traces, and alerts on signals."""
