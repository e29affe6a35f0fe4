"""Steps of this room: evaluate, gate."""
