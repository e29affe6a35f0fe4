"""Checks of a prepared data set, one file each."""
