"""Kinds of regard that come with Luthier; a new one is a new file here."""
