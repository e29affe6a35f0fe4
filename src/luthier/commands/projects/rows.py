"""The rows of a prepared data set, a page at a time: filtered and searched where they lie, kept and dropped alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from luthier.artifacts.dataset import list_splits
from luthier.artifacts.findings import EVENTS, format_file_location
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError

if TYPE_CHECKING:
    import polars as pl

PAGE = 50
"""Rows of a page."""
_SHOWN_CHARS = 400
_SHOWN_MEDIA = 3
"""Pictures and sounds of a row that a table shows."""
_THUMBNAIL_SIDE = 96
_MOST_CHOICES = 200
_MOST_VALUES = 24
"""A column of more different values makes no slices."""
_SAMPLE = 1_000
"""Rows in which columns of few values are looked for."""
LENGTHS: Mapping[str, tuple[int, int]] = {
    "0-200": (0, 200), "200-1000": (200, 1_000), "1000-5000": (1_000, 5_000), "5000-": (5_000, 1 << 60),
}  # fmt: skip
"""Bands of lengths, in characters of all turns as they are stored."""


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which rows are meant, and in which order; empty texts mean all."""

    split: str = ""
    """A split, or `dropped`."""
    label: str = ""
    reason: str = ""
    """Of dropped rows, what they are counted under."""
    search: str = ""
    """Text that stands in the row, in small or capital letters."""
    slices: tuple[str, ...] = ()
    """Each `NAME=VALUE`, such as `file=rows.csv`, `length=0-200`, `meta.channel=mail` or `language.language=de`."""
    sort: str = ""
    """`length`, `label`, or a number that an operator wrote (`quality.words`); the largest first after a `-`."""
    page: int = 1

    def query(self, **changes: str | int) -> str:
        """The same as the query of an address, with some of it changed."""
        plain = {name: value for name, value in vars(self).items() if name != "slices"} | changes
        kept = [(name, str(value)) for name, value in plain.items() if value not in ("", 1)]
        return urlencode([*kept, *(("slice", entry) for entry in self.slices)])


class DatasetRow(NamedTuple):
    """One row as a table shows it."""

    id: str
    location: str
    split: str
    label: str
    prompt: str
    answer: str
    reason: str
    media: tuple[Media, ...] = ()
    """What its turns show and play, the first few."""


@dataclass(frozen=True, kw_only=True)
class RowsPage:
    """A page of rows, how many there are, and what can be chosen."""

    rows: list[DatasetRow]
    found: int
    total: int
    splits: dict[str, int]
    labels: list[str]
    reasons: dict[str, int]
    slices: dict[str, list[str]]
    """Values that can be chosen of each slice, by its name."""
    sorts: list[str]
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
    attributes: tuple[str, ...]
    """The operators that wrote columns about the rows."""

    def scan_attributes(self, operator: str) -> pl.LazyFrame:
        """The columns that an operator wrote."""
        import polars as pl

        return pl.scan_parquet(self.folder / f"attributes/{operator}.parquet")

    def kept(self) -> dict[str, pl.LazyFrame]:
        """The rows of each split."""
        import polars as pl

        return {split: pl.scan_parquet(self.folder / f"examples/{split}.parquet") for split in self.splits}


class _Choices(NamedTuple):
    """What can be chosen among the rows of a data set."""

    splits: dict[str, int]
    labels: list[str]
    reasons: dict[str, int]
    slices: dict[str, list[str]]
    sorts: list[str]


def read_rows_page(dataset: Artifact, chosen: RowFilter, named: Mapping[str, Sequence[str]] | None = None) -> RowsPage:
    """One page of the rows that are meant; columns that it does not show are not read.

    `named` are further slices by ids: of each `NAME=VALUE`, the rows that it means.
    """
    paths = [entry.path for entry in dataset.manifest.files]
    operators = sorted(path[len("attributes/") : -len(".parquet")] for path in paths if path.startswith("attributes/"))
    tables = _Tables(dataset.folder.absolute(), tuple(list_splits(dataset)), EVENTS in paths, tuple(operators))
    choices = _list_choices(tables)
    by_id = named or {}
    ids = tuple((item, tuple(by_id[item])) for item in chosen.slices if item in by_id)
    is_sorted = chosen.sort.removeprefix("-") in choices.sorts
    order = _order(tables, replace(chosen, page=1), ids) if is_sorted else None
    count = _known_count(choices, chosen) if order is None else len(order)
    total = sum(choices.splits.values())
    page = max(1, min(chosen.page, -(-(total if count is None else count) // PAGE)))
    frame = _meant(tables, chosen, ids)
    rows, found = _take(frame, page, count, order)
    if not rows.height and found:
        page = -(-found // PAGE)
        rows, found = _take(frame, page, found, order)
    return RowsPage(
        rows=[_row(values) for values in rows.iter_rows(named=True)],
        found=found,
        total=total,
        splits=choices.splits,
        labels=choices.labels,
        reasons=choices.reasons,
        slices=choices.slices,
        sorts=choices.sorts,
        page=page,
    )


@lru_cache(maxsize=16)
def _list_choices(tables: _Tables) -> _Choices:
    kept, reasons = tables.kept(), _reasons(_dropped(tables))
    splits = {name: _count(frame) for name, frame in kept.items()}
    dropped = {"dropped": sum(reasons.values())} if reasons else {}
    slices, numbers = _list_slices(tables, kept)
    labels = _labels(list(kept.values()))
    sorts = ["length", *(["label"] if labels else []), *numbers]
    return _Choices({**splits, **dropped}, labels, reasons, slices, sorts)


def _list_slices(tables: _Tables, kept: Mapping[str, pl.LazyFrame]) -> tuple[dict[str, list[str]], list[str]]:
    """The slices that rows fall into with their values, and the numbers that operators wrote about them."""
    import polars as pl

    found: dict[str, list[str]] = {}
    numbers: list[str] = []
    files = pl.concat([frame.select("file") for frame in kept.values()]).unique().sort("file").collect()["file"]
    if 1 < len(files) <= _MOST_VALUES:
        found["file"] = files.to_list()
    for operator in tables.attributes:
        frame = tables.scan_attributes(operator)
        for name, kind in frame.collect_schema().items():
            if kind.is_numeric():
                numbers.append(f"{operator}.{name}")
            elif name != "id":
                values = frame.select(pl.col(name).cast(pl.String)).drop_nulls().unique().sort(name).collect()[name]
                if 1 < len(values) <= _MOST_VALUES:
                    found[f"{operator}.{name}"] = values.to_list()
    found["length"] = list(LENGTHS)
    metas = [json.loads(entry) for entry in next(iter(kept.values())).select("meta").head(_SAMPLE).collect()["meta"]]
    for name in sorted({name for meta in metas for name in meta}):
        texts = {meta[name] for meta in metas if isinstance(meta.get(name), str)}
        if 1 < len(texts) <= _MOST_VALUES and all(len(text) <= _MOST_CHOICES for text in texts):
            found[f"meta.{name}"] = sorted(texts)
    return found, numbers


_COLUMNS = ("id", "file", "line", "split", "label", "messages", "reason")
_READ = (*_COLUMNS, "meta")


_Ids = tuple[tuple[str, tuple[str, ...]], ...]
"""Slices by ids."""


def _meant(tables: _Tables, chosen: RowFilter, ids: _Ids) -> pl.LazyFrame:
    """The rows that are meant, of whichever tables they lie in."""
    import polars as pl

    dropped = _dropped(tables)
    frames = [
        frame.select(
            "id", "file", "line", pl.lit(split).alias("split"), "label", "messages", pl.lit("").alias("reason"), "meta"
        )
        for split, frame in tables.kept().items()
        if chosen.split in ("", split) and not chosen.reason
    ]
    if dropped is not None and (chosen.split in ("", "dropped")) and not chosen.label:
        frames.append(dropped)
    frame = pl.concat([lazy_frame.cast({"line": pl.Int64, "label": pl.String}) for lazy_frame in frames or [_none()]])
    if chosen.label:
        frame = frame.filter(pl.col("label") == chosen.label)
    if chosen.reason:
        frame = frame.filter(pl.col("reason").str.split(": ").list.first() == chosen.reason)
    if chosen.search.strip():
        words = json.dumps(chosen.search.strip(), ensure_ascii=False)[1:-1]
        pattern = f"(?i){pl.escape_regex(words)}"
        frame = frame.filter(pl.any_horizontal(pl.col("messages", "id", "label").str.contains(pattern)))
    return _sliced(tables, frame, chosen, dict(ids))


def _sliced(
    tables: _Tables, frame: pl.LazyFrame, chosen: RowFilter, named: Mapping[str, Sequence[str]]
) -> pl.LazyFrame:
    """The rows of all slices that are chosen; of one that there is not, none."""
    import polars as pl

    for entry in chosen.slices:
        name, _, value = entry.partition("=")
        operator, _, column = name.partition(".")
        if entry in named:
            frame = frame.filter(pl.col("id").is_in(list(named[entry])))
        elif name == "file":
            frame = frame.filter(pl.col("file") == value)
        elif name == "length" and value in LENGTHS:
            low, high = LENGTHS[value]
            frame = frame.filter(pl.col("messages").str.len_chars().is_between(low, high, closed="left"))
        elif operator == "meta":
            written = f"{json.dumps(column, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            frame = frame.filter(pl.col("meta").str.contains(written, literal=True))
        elif operator in tables.attributes and column in tables.scan_attributes(operator).collect_schema():
            meant = tables.scan_attributes(operator).filter(pl.col(column).cast(pl.String) == value).select("id")
            frame = frame.join(meant, on="id", how="semi", maintain_order="left")
        else:
            frame = frame.filter(pl.lit(value=False))
    return frame


@lru_cache(maxsize=4)
def _order(tables: _Tables, chosen: RowFilter, ids: _Ids) -> pl.Series:
    """The places of the rows that are meant, in the order that is asked for; those without the value come last."""
    import polars as pl

    frame, name = _meant(tables, chosen, ids), chosen.sort.removeprefix("-")
    operator, _, column = name.partition(".")
    if column:
        values = tables.scan_attributes(operator).select("id", pl.col(column).alias("key")).unique("id", keep="any")
        frame = frame.join(values, on="id", how="left", maintain_order="left")
    else:
        key = pl.col("messages").str.len_chars() if name == "length" else pl.col("label")
        frame = frame.with_columns(key=key)
    keys = frame.select("key").collect()["key"]
    found: pl.Series = keys.arg_sort(descending=chosen.sort.startswith("-"), nulls_last=True)
    return found


def _none() -> pl.LazyFrame:
    import polars as pl

    return pl.LazyFrame({name: pl.Series([], dtype=pl.String) for name in _READ})


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
        pl.lit(None, dtype=pl.String).alias("meta"),
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
    if chosen.label or chosen.reason or chosen.search.strip() or chosen.slices:
        return None
    return choices.splits.get(chosen.split, 0) if chosen.split else sum(choices.splits.values())


def _take(frame: pl.LazyFrame, page: int, count: int | None, order: pl.Series | None) -> tuple[pl.DataFrame, int]:
    """A page of rows, and how many there are; both in one pass where that is not known."""
    import polars as pl

    start = (page - 1) * PAGE
    frame = frame.select(_COLUMNS)
    if order is not None:
        indices = order.slice(start, PAGE).alias("at")
        rows = frame.with_row_index("at").filter(pl.col("at").is_in(indices.implode())).collect()
        return pl.DataFrame({"at": indices}).join(rows, on="at", how="left", maintain_order="left"), len(order)
    shown = frame.slice(start, PAGE)
    if count is not None:
        return shown.collect(), count
    taken, counted = pl.collect_all([shown, frame.select(pl.len())])
    return taken, int(counted.item())


def preview_rows(dataset: Artifact, media: Iterable[Media], side: int = _THUMBNAIL_SIDE) -> dict[str, str]:
    """Small copies of pictures and sounds as data URLs, by digest; what cannot be read is left out."""
    from luthier.artifacts.media import MediaReader
    from luthier.chat.media_preview import preview_media

    found: dict[str, str] = {}
    with MediaReader(dataset) as reader:
        for medium in media:
            if medium.digest not in found:
                with suppress(LuthierError):  # gone, broken, or no library here: the page names it all the same
                    found[medium.digest] = preview_media(medium, reader.read(medium.digest), side).url
    return found


def _row(values: dict[str, Any]) -> DatasetRow:
    prompt, answer = _texts(values["messages"]) if values["split"] != "dropped" else (values["messages"], "")
    media = list_turn_media(json.loads(values["messages"])) if values["split"] != "dropped" else []
    return DatasetRow(
        id=values["id"],
        location=format_file_location(values["file"], values["line"]),
        split=values["split"],
        label=values["label"] or "",
        prompt=_short(prompt),
        answer=_short(answer),
        reason=values["reason"],
        media=tuple(media[:_SHOWN_MEDIA]),
    )


def list_turn_media(turns: Iterable[Mapping[str, Any]]) -> list[Media]:
    """The pictures and sounds of turns as a data set stores them, in order."""
    return [Media.model_validate(medium) for turn in turns for medium in turn.get("media") or ()]


def _texts(messages: str) -> tuple[str, str]:
    """What the user wrote last and what was answered, of a row's messages."""
    turns = json.loads(messages)
    answer = turns[-1].get("content") or "" if turns and turns[-1]["role"] == "assistant" else ""
    prompts = [(turn.get("content") or "").replace(MEDIA_MARK, " ").strip() for turn in turns if turn["role"] == "user"]
    return str(prompts[-1] if prompts else ""), str(answer)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
