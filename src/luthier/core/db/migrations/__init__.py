"""The Alembic environment of the ledger: `env.py` runs the numbered files of `versions/` in order."""
