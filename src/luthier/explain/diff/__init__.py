"""What tuning changed in a model: distributions, hidden states, weights and answers beside the base's."""
