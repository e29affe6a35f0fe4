"""The questions that sites answer by counts, one file for each kind."""
