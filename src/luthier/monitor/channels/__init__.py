"""The channels of a monitor: one file each."""
