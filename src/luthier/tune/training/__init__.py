"""The trainer: training loop, schedule, memory, checkpoints and optimizer state."""
