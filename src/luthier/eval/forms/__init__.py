"""Forms of judgment by people, one a file."""
