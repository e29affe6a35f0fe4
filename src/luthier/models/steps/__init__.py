"""Steps of this bench: making a base model."""
