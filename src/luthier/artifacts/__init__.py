"""The formats of artifacts that several packages read: datasets, annotations and findings."""
