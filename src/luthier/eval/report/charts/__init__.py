"""Pictures of the report: small pure functions from numbers to inline SVG."""
