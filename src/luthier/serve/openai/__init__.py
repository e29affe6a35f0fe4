"""The OpenAI-compatible API of the gateway."""
