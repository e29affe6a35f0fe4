"""Rows that a data set left out: why, where they stand in the user's files, how they begin, and what they repeat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from luthier.core.artifact import Artifact
from luthier.text.dataset import splits

EVENTS = "events.parquet"


class DroppedRow(NamedTuple):
    """One row that was left out."""

    id: str
    file: str
    line: int | None
    row: int | None
    """Its number as a spreadsheet counts, where cells that span lines make it another one than the line's."""
    operator: str
    reason: str
    text: str
    """Its first words, personal data masked as in the data set; empty where they are not known."""
    twin: str
    """Where the row stands that it repeats, or what names it; empty where it repeats none."""
    similarity: float | None

    @property
    def category(self) -> str:
        """What it is counted under: the reason up to the colon."""
        return self.reason.partition(": ")[0]

    @property
    def place(self) -> str:
        """File and line, and the row where a spreadsheet counts another one."""
        return place_in_file(self.file, self.line, self.row)


def place_in_file(file: str | None, line: int | None, row: int | None = None) -> str:
    """`rows.csv:17`, or `rows.csv:17 (row 12)` where a spreadsheet calls the line another row."""
    where = file or "" if line is None else f"{file}:{line}"
    return where if row is None else f"{where} (row {row})"


def read_dropped(artifact: Artifact, first: int | None = None) -> list[DroppedRow]:
    """All rows that were left out, or the first of each reason: the most frequent reason first, then by place."""
    import polars as pl

    if not any(entry.path == EVENTS for entry in artifact.manifest.files):
        return []
    category = pl.col("reason").str.split(": ").list.first()
    events = pl.scan_parquet(artifact.path(EVENTS)).filter(pl.col("action") == "drop").collect()
    events = events.with_columns(category=category).with_columns(count=pl.len().over("category"))
    events = events.sort("count", "category", "file", "line", descending=[True, False, False, False])
    if first is not None:
        events = events.filter(pl.int_range(pl.len()).over("category") < first)
    twins = _places(artifact, events["twin"].drop_nulls().unique().to_list())
    return [_dropped(event, twins) for event in events.iter_rows(named=True)]


def _dropped(event: dict[str, Any], twins: dict[str, str]) -> DroppedRow:
    twin = event["twin"] or ""
    return DroppedRow(
        id=event["id"],
        file=event["file"] or "",
        line=event["line"],
        row=event.get("row"),
        operator=event["operator"],
        reason=event["reason"] or "",
        text=event.get("text") or event["after"] or "",  # a made row that was refused is kept as what it became
        twin=twins.get(twin, twin),
        similarity=event["similarity"],
    )


def _places(artifact: Artifact, ids: Iterable[str]) -> dict[str, str]:
    """Where the rows with some ids stand, kept or dropped."""
    import polars as pl

    wanted = list(ids)
    found: dict[str, str] = {}
    for name in (EVENTS, *(f"examples/{split}.parquet" for split in splits(artifact))):
        if wanted:
            rows = pl.scan_parquet(artifact.path(name)).filter(pl.col("id").is_in(wanted)).collect()
            for one in rows.iter_rows(named=True):
                found[one["id"]] = place_in_file(one["file"], one["line"], one.get("row"))
    return found
