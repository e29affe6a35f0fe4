"""Steps on data sets."""
