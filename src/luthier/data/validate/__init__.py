"""Validation of a data set: the runner of the checks, and what checks share."""
