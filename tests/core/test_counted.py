"""Counts in the words of a person."""

from __future__ import annotations

from luthier.core.counted import by_name, counted


def test_one_is_not_many() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(3, "row is", "rows are") == "3 rows are"


def test_names_do_not_bend() -> None:
    assert by_name({"broken row": 2, "near duplicate": 1}) == "2 × broken row, 1 × near duplicate"
