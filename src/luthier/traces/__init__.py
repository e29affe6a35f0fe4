"""Traces of requests to served models, feedback, and the store of both."""
