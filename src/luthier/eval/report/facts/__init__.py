"""The facts of a report, one module per section."""
