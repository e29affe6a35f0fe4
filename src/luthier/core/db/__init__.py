"""The ledger: a small database of runs, judgments, keys, releases and jobs, on SQLite or PostgreSQL by one URL.

Importing this package loads no database library; opening a `Ledger` does. Add a table as a file in `tables/` with a
numbered file in `migrations/versions/`. Its queries belong to the package that owns the table and use `Ledger.reading`
and `Ledger.writing`.
"""

from luthier.core.db.runs import Ledger, Run, RunStep, State, ledger_url

__all__ = ["Ledger", "Run", "RunStep", "State", "ledger_url"]
