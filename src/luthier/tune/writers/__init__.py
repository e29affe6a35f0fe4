"""Writers: who draws the answers that a policy learns from, where the model does not draw them itself."""
