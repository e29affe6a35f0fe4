"""Alembic's environment of the ledger: `env.py` runs one numbered file of `versions/` after the other."""
