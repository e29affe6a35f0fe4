"""Serving: engines, and the gateway with the OpenAI API in front of them."""
