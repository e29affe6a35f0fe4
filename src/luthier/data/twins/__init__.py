"""Which rows are the same or nearly so, and which copy stays."""
