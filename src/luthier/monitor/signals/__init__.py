"""The signals of a monitor: one file each."""
