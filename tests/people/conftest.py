"""A ledger with an owner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luthier.core.db import Ledger
from luthier.people.accounts import add_person

PASSWORD = "four plain words here"


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    with Ledger(database) as ledger:
        add_person(ledger, "olga", roles={"*": "owner"}, by="root", password=PASSWORD)
        yield ledger
