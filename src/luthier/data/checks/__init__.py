"""Checks of a prepared data set, one file a kind."""
