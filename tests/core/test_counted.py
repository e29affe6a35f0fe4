"""Counts in the words of a person."""

from __future__ import annotations

from luthier.core.events import by_name, counted, of_rows


def test_one_is_not_many() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(3, "row is", "rows are") == "3 rows are"


def test_the_verb_bends_with_how_many_of_them() -> None:
    assert of_rows(1, 61, "has", "have") == "1 of 61 rows has"
    assert of_rows(2, 2000, "has", "have") == "2 of 2,000 rows have"


def test_names_do_not_bend() -> None:
    assert by_name({"broken row": 2, "near duplicate": 1}) == "2 × broken row, 1 × near duplicate"
