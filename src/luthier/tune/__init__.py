"""Fine-tuning: techniques, objectives, optimizers, rewards, and the training loop."""
