"""Signals of a monitor, one file each."""
