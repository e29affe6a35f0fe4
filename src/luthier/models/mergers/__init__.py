"""Methods of merging models, one file each."""
