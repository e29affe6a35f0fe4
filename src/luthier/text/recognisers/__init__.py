"""The recognisers of names: one file each."""
