"""Labeling projects: made from rows or from other tools' projects, measured, and turned into recipes."""
