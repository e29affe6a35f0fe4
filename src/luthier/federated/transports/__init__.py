"""Transports of messages between a coordinator and its sites, one file each."""
