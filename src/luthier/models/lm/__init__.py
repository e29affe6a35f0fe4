"""Language models behind one interface: local weights, OpenAI-compatible endpoints, and a cache of answers."""
