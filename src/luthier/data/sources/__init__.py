"""Sources of rows, one file each."""
