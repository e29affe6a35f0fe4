"""Export formats of data sets, one file each."""
