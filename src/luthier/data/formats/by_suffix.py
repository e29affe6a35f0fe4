"""Which reader a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from luthier.core.errors import DataError, Where
from luthier.data.formats import delimited, jsonl, tables
from luthier.data.formats.lines import BadLine, head, lines
from luthier.data.row import Broken, Record


def read(path: Path, name: str, say: Callable[[str], None] = lambda text: None) -> Iterator[Record | Broken]:
    """Rows of a file, read as its suffix says."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return delimited.read(path, name, say=say)
    if suffix in (".jsonl", ".ndjson"):
        return jsonl.read(path, name)
    if suffix in (".parquet", ".pq"):
        return tables.read(path, name)
    if suffix in (".txt", ".md"):
        return _whole_text(path, name)
    remedy = f"known endings: {', '.join(sorted(SUFFIXES))}"
    raise DataError(f"cannot tell how to read a file that ends in {suffix!r}", where=Where(file=name), remedy=remedy)


SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".txt", ".md"})


def _whole_text(path: Path, name: str) -> Iterator[Record | Broken]:
    """A text file as one record with the column `text`."""
    first = head(path, name)
    parts: list[str] = []
    for number, line in enumerate(lines(path, name, first.encoding), start=1):
        if isinstance(line, BadLine):
            yield Broken(name, number, line.problem, remedy=line.remedy)
            return
        parts.append(line)
    yield Record({"text": "".join(parts)}, name, 1)
