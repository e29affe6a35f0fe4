"""Steps that drive other steps."""
