"""Steps on models: make a base model, merge models."""
