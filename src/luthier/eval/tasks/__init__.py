"""Tasks beside the user's held-out rows, one file per kind."""
