"""The ledger: a small database of what lives and changes, on SQLite or PostgreSQL by one URL.

Importing this loads no database library; opening a `Ledger` does. A new table is a file in `tables/` and a numbered
file in `migrations/versions/`; its verbs stand in the room that owns it, over `Ledger.reading` and `Ledger.writing`.
"""

from luthier.core.ledger.book import Ledger, ledger_url
from luthier.core.ledger.records import Run, RunStep, State

__all__ = ["Ledger", "Run", "RunStep", "State", "ledger_url"]
