"""Steps that explain."""
