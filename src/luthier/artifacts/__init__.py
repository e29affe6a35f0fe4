"""The formats of artifacts that several packages read: datasets and findings."""
