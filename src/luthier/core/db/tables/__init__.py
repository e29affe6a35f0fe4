"""The tables of the ledger, one file per group; `load_table_metadata` imports them all."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def load_table_metadata() -> MetaData:
    """Every table of the ledger."""
    for module_info in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module_info.name}")
    from luthier.core.db.tables.base import LedgerBase

    return LedgerBase.metadata
