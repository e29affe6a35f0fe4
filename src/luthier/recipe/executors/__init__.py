"""Executors: where the steps of a run are made, one file each."""
