"""Metrics: pure functions of predictions and references with intervals, and paired comparison of two models."""
