"""Language models as they are asked: one interface over weights on this machine and OpenAI-compatible endpoints."""
