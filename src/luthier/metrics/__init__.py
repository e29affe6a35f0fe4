"""Metrics: pure functions of predictions and references, with intervals; paired comparison of two models' answers."""
