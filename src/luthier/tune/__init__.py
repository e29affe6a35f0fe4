"""The tuning room: techniques say what moves, objectives what is wanted, one loop does the work."""
