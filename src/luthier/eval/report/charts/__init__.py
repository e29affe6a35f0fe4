"""Charts of the report: pure functions from numbers to inline SVG."""
