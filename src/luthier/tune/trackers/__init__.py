"""Trackers: where the numbers of a training can be watched."""
