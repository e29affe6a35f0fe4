"""Masks that cancel in a sum, and what lets sites drop out of one."""
