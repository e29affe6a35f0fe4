"""Where a model may come from: one module a source."""
