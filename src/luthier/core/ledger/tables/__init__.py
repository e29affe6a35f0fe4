"""The tables of the ledger, one file a group; `load` imports them all, so that adding one touches nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def load() -> MetaData:
    """Every table of the ledger."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    from luthier.core.ledger.tables.base import Base

    return Base.metadata
