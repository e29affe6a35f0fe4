"""Kinds of regard toward groups, one file each."""
