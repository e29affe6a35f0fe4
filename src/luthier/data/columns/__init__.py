"""Columns of a source: which hold the prompt, the answer and the id, and how rows become conversations."""
