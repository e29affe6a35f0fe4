"""Language models behind one interface: local weights, OpenAI-compatible endpoints, and a response cache."""
