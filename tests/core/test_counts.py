"""Counts in the words of a person."""

from __future__ import annotations

from luthier.core.events import format_counted_noun, format_counts_by_name, format_rows_affected


def test_one_is_not_many() -> None:
    assert [format_counted_noun(number, "row") for number in (0, 1, 2, 2000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "2,000 rows",
    ]
    assert format_counted_noun(1, "class", "classes") == "1 class"
    assert format_counted_noun(3, "row is", "rows are") == "3 rows are"


def test_the_verb_bends_with_how_many_of_them() -> None:
    assert format_rows_affected(1, 61, "has", "have") == "1 of 61 rows has"
    assert format_rows_affected(2, 2000, "has", "have") == "2 of 2,000 rows have"


def test_names_do_not_bend() -> None:
    assert format_counts_by_name({"broken row": 2, "near duplicate": 1}) == "2 × broken row, 1 × near duplicate"
