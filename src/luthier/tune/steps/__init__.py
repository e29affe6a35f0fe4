"""Steps of this room: making a tuned model."""
