"""Annotations by people, rules and models, and the labels decided from them."""
