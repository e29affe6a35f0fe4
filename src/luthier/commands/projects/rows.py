"""The rows of a prepared data set, a page at a time: filtered and searched where they lie, kept and dropped alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import list_splits
from luthier.artifacts.findings import EVENTS, format_file_location
from luthier.core.artifact import Artifact

if TYPE_CHECKING:
    import polars as pl

PAGE = 50
"""Rows of a page."""
_SHOWN_CHARS = 400
_MOST_CHOICES = 200


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which rows are meant; empty texts mean all."""

    split: str = ""
    """A split, or `dropped`."""
    label: str = ""
    reason: str = ""
    """Of dropped rows, what they are counted under."""
    search: str = ""
    """Text that stands in the row, in small or capital letters."""
    page: int = 1


class DatasetRow(NamedTuple):
    """One row as a table shows it."""

    id: str
    location: str
    split: str
    label: str
    prompt: str
    answer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RowsPage:
    """A page of rows, how many there are, and what can be chosen."""

    rows: list[DatasetRow]
    found: int
    total: int
    splits: dict[str, int]
    labels: list[str]
    reasons: dict[str, int]
    page: int

    @property
    def pages(self) -> int:
        """How many pages the rows that were found make."""
        return max(1, -(-self.found // PAGE))


class _Tables(NamedTuple):
    """Where the tables of a data set lie; what is in them never changes."""

    folder: Path
    splits: tuple[str, ...]
    has_events: bool

    def kept(self) -> dict[str, pl.LazyFrame]:
        """The rows of each split."""
        import polars as pl

        return {split: pl.scan_parquet(self.folder / f"examples/{split}.parquet") for split in self.splits}


class _Choices(NamedTuple):
    """What can be chosen among the rows of a data set."""

    splits: dict[str, int]
    labels: list[str]
    reasons: dict[str, int]


def read_rows_page(dataset: Artifact, chosen: RowFilter) -> RowsPage:
    """One page of the rows that are meant, in source order; columns that it does not show are not read."""
    has_events = any(entry.path == EVENTS for entry in dataset.manifest.files)
    tables = _Tables(dataset.folder.absolute(), tuple(list_splits(dataset)), has_events)
    choices = _list_choices(tables)
    frame = _meant(tables, chosen)
    total = sum(choices.splits.values())
    page = max(1, min(chosen.page, -(-total // PAGE)))
    rows, found = _take(frame, page, _known_count(choices, chosen))
    if not rows.height and found:
        page = -(-found // PAGE)
        rows, found = _take(frame, page, found)
    return RowsPage(
        rows=[_row(values) for values in rows.iter_rows(named=True)],
        found=found,
        total=total,
        splits=choices.splits,
        labels=choices.labels,
        reasons=choices.reasons,
        page=page,
    )


@lru_cache(maxsize=16)
def _list_choices(tables: _Tables) -> _Choices:
    kept, reasons = tables.kept(), _reasons(_dropped(tables))
    splits = {name: _count(frame) for name, frame in kept.items()}
    dropped = {"dropped": sum(reasons.values())} if reasons else {}
    return _Choices({**splits, **dropped}, _labels(list(kept.values())), reasons)


_COLUMNS = ("id", "file", "line", "split", "label", "messages", "reason")


def _meant(tables: _Tables, chosen: RowFilter) -> pl.LazyFrame:
    """The rows that are meant, of whichever tables they lie in."""
    import polars as pl

    dropped = _dropped(tables)
    frames = [
        frame.select(
            "id", "file", "line", pl.lit(split).alias("split"), "label", "messages", pl.lit("").alias("reason")
        )
        for split, frame in tables.kept().items()
        if chosen.split in ("", split) and not chosen.reason
    ]
    if dropped is not None and (chosen.split in ("", "dropped")) and not chosen.label:
        frames.append(dropped)
    frame = pl.concat([one.cast({"line": pl.Int64, "label": pl.String}) for one in frames or [_none()]])
    if chosen.label:
        frame = frame.filter(pl.col("label") == chosen.label)
    if chosen.reason:
        frame = frame.filter(pl.col("reason").str.split(": ").list.first() == chosen.reason)
    if chosen.search.strip():
        words = json.dumps(chosen.search.strip(), ensure_ascii=False)[1:-1]
        pattern = f"(?i){pl.escape_regex(words)}"
        frame = frame.filter(pl.any_horizontal(pl.col("messages", "id", "label").str.contains(pattern)))
    return frame


def _none() -> pl.LazyFrame:
    import polars as pl

    return pl.LazyFrame({name: pl.Series([], dtype=pl.String) for name in _COLUMNS})


def _dropped(tables: _Tables) -> pl.LazyFrame | None:
    """The rows that were left out, as far as their first words are known."""
    import polars as pl

    if not tables.has_events:
        return None
    events = pl.scan_parquet(tables.folder / EVENTS)
    text = pl.coalesce([name for name in ("text", "after") if name in events.collect_schema().names()])
    return events.filter(pl.col("action") == "drop").select(
        "id", "file", "line", pl.lit("dropped").alias("split"), pl.lit(None, dtype=pl.String).alias("label"),
        text.fill_null("").alias("messages"), pl.col("reason").fill_null("").alias("reason"),
    )  # fmt: skip


def _reasons(dropped: pl.LazyFrame | None) -> dict[str, int]:
    import polars as pl

    if dropped is None:
        return {}
    category = pl.col("reason").str.split(": ").list.first().alias("category")
    counts = dropped.group_by(category).len().sort(["len", "category"], descending=[True, False]).collect()
    return {str(name): int(count) for name, count in counts.iter_rows()}


def _labels(frames: Sequence[pl.LazyFrame]) -> list[str]:
    import polars as pl

    labels = pl.concat([frame.select(pl.col("label").cast(pl.String)) for frame in frames])
    return labels.drop_nulls().unique().sort("label").head(_MOST_CHOICES).collect()["label"].to_list()


def _count(frame: pl.LazyFrame) -> int:
    import polars as pl

    return int(frame.select(pl.len()).collect().item())


def _known_count(choices: _Choices, chosen: RowFilter) -> int | None:
    """How many rows are meant, where that is known without a look at them."""
    if chosen.label or chosen.reason or chosen.search.strip():
        return None
    return choices.splits.get(chosen.split, 0) if chosen.split else sum(choices.splits.values())


def _take(frame: pl.LazyFrame, page: int, count: int | None) -> tuple[pl.DataFrame, int]:
    """A page of rows, and how many there are; both in one pass where that is not known."""
    import polars as pl

    rows = frame.slice((page - 1) * PAGE, PAGE)
    if count is not None:
        return rows.collect(), count
    taken, counted = pl.collect_all([rows, frame.select(pl.len())])
    return taken, int(counted.item())


def _row(values: dict[str, Any]) -> DatasetRow:
    prompt, answer = _texts(values["messages"]) if values["split"] != "dropped" else (values["messages"], "")
    return DatasetRow(
        id=values["id"],
        location=format_file_location(values["file"], values["line"]),
        split=values["split"],
        label=values["label"] or "",
        prompt=_short(prompt),
        answer=_short(answer),
        reason=values["reason"],
    )


def _texts(messages: str) -> tuple[str, str]:
    """What the user wrote last and what was answered, of a row's messages."""
    turns = json.loads(messages)
    answer = turns[-1].get("content") or "" if turns and turns[-1]["role"] == "assistant" else ""
    prompts = [turn.get("content") or "" for turn in turns if turn["role"] == "user"]
    return str(prompts[-1] if prompts else ""), str(answer)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
