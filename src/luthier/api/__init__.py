"""The OpenAI-compatible API of files and fine-tuning jobs, behind the same keys as the gateway."""
