"""Cheap rules that vote for a label; one file a rule."""
