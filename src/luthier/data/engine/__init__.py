"""The engine of `prepare`: from a source to a dataset on disk."""
