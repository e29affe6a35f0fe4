"""Steps of evaluation."""
