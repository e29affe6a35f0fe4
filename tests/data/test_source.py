"""What is said to somebody who names a source that there is not."""

from __future__ import annotations

import pytest

from luthier.data.source import Source


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("xlsx", "did you mean 'excel'?"),
        ("ndjson", "did you mean 'jsonl'?"),
        ("cvs", "did you mean 'csv'?"),
        ("../tickets.csv", "write `{kind: csv, path: ../tickets.csv}`"),
        ("Rows.TSV.gz", "write `{kind: csv, path: Rows.TSV.gz}`"),
        ("rows.json", "write `{kind: json, path: rows.json}`"),
        ("s3://bucket/rows.jsonl", "write `{kind: jsonl, path: s3://bucket/rows.jsonl}`"),
        ("exports/2025", "write `{kind: folder, path: exports/2025}`"),
    ],
)
def test_a_path_or_an_ending_is_told_how_it_is_written(name: str, hint: str) -> None:
    assert Source.instead_of(name) == hint


@pytest.mark.parametrize("name", ["https://example.org/help", "rows.unheard", "gopher"])
def test_of_another_name_the_kinds_are_told(name: str) -> None:
    assert Source.instead_of(name).startswith("known: annotations, arrow, csv, ")
