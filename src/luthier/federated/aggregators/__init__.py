"""Aggregators of the sites' weights, one file each."""
