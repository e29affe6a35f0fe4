"""Tables of the probes, benchmarks and regard scorers: one row a line, `#` starts a comment."""
