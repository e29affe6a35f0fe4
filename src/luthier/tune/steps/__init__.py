"""Steps of fine-tuning."""
