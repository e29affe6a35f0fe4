"""Rows are looked at a last time as far as nobody can vouch for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data.operator import LeftoverPii
from luthier.data.ops.pii import Pii
from luthier.data.row import Row

Make = Callable[..., Any]
Write = Callable[..., str]
CARD = "4111 1111 1111 111"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")


def _source(write: Write, *odd: str) -> dict[str, Any]:
    rows = [{"prompt": f"question {n}", "answer": f"answer {n} {odd[n] if n < len(odd) else ''}"} for n in range(20)]
    return {"kind": "jsonl", "path": write("t.jsonl", rows)}


def test_what_a_later_operator_puts_together_is_found(make: Make, write: Write) -> None:
    source = _source(write, "the key sk-abcdefghij&#107;lmnopqrstuv12 it is")
    with pytest.raises(DataError, match="secret is left in the row after all operators"):
        make(source=source, ops=["pii", "normalize"])
    assert make(source=source, ops=["normalize", "pii"]).summary.edited["pii"] == 1


def test_what_is_only_flagged_is_found(make: Make, write: Write) -> None:
    with pytest.raises(DataError, match="card is left"):
        make(source=_source(write, f"card {CARD}1"), ops=[{"kind": "pii", "action": "flag"}, "exact_dedup"])


def test_kinds_that_were_not_looked_for_are_found(make: Make, write: Write) -> None:
    with pytest.raises(DataError, match="card is left"):
        make(source=_source(write, f"card {CARD}1"), ops=[{"kind": "pii", "kinds": ["email"]}])


def test_only_rows_with_finds_are_looked_at_when_nothing_was_edited_later(
    make: Make, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    leftover = Pii.leftover

    def noting(self: Pii, rows: Sequence[Row]) -> tuple[Row, LeftoverPii] | None:
        seen.extend(row.n for row in rows)
        return leftover(self, rows)

    monkeypatch.setattr(Pii, "leftover", noting)
    odd = ("mail anna@example.com", "", "mail ben@example.com &amp;")
    make(source=_source(write, *odd), ops=["normalize", "pii", "exact_dedup"])
    assert seen == [0, 2]
    seen.clear()
    make(source=_source(write, *odd), ops=["pii", "normalize", "exact_dedup"])
    assert seen == list(range(20))


def test_nobody_vouches_without_having_looked_everywhere() -> None:
    none = {"email": np.zeros(2, np.int64), "card": np.array([0, 1])}
    assert Pii(columns=False).untroubled(none) is None
    assert Pii(kinds=("email",)).untroubled(none) is None
    found = Pii().untroubled(none)
    assert found is not None
    assert found.tolist() == [True, False]
