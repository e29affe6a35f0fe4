"""The steps of a monitor: one file each."""
