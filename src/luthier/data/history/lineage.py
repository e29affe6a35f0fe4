"""An example's story within its data set: where it came from, what was done to it, where it went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.artifacts.dataset import MADE, DatasetSummary, list_splits
from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    import polars

_SHORTEST = 4
_EVENT_KEYS = ("operator", "action", "reason", "field", "start", "end", "before", "after", "twin", "similarity")


def explain_example(artifact: Artifact, example_id: str) -> dict[str, Any]:
    """Origin, every edit, and the split or the reason of its being dropped; an id may be abbreviated, or be FILE:LINE.

    `{"id", "origin": {"source", "file", "line", "row"}, "split", "dropped", "kind", "label", "messages", "meta",
    "group", "made", "events", "attributes"}`; `row` is there where a spreadsheet counts another row than the line. Of a
    dropped row, `split` and its content are None and `dropped` says why. Of a row that was made out of others, `made`
    is `{"by", "parents", "did", "copy"}`. A row in a split is not dropped, even where the events tell that it came a
    second time and was left out then (`mix`).
    """
    found = _whole_id(artifact, example_id)
    events = _events(artifact, found)
    example = _example(artifact, found)
    dropped = None if example else next((event for event in events if event["action"] == "drop"), None)
    origin = example.pop("origin", None) or {
        "source": _source(artifact) or events[0]["operator"],
        **events[0]["origin"],
    }
    shown = [{key: event[key] for key in _EVENT_KEYS} for event in events]
    return {
        "id": found,
        "origin": origin,
        "split": None,
        "dropped": {key: dropped[key] for key in ("operator", "reason", "twin", "similarity")} if dropped else None,
        **dict.fromkeys(("kind", "label", "messages", "meta", "group")),
        **example,
        "made": (example.get("meta") or {}).get(MADE),
        "events": shown,
        "attributes": _attributes(artifact, found),
    }


def list_derived_rows(artifact: Artifact, example_id: str) -> list[dict[str, Any]]:
    """The training rows that were made out of an example: `{"id", "by"}`, in order."""
    import polars as pl

    if not DatasetSummary.read(artifact).made:
        return []
    named = pl.col("meta").str.contains(f'"{example_id}"', literal=True)
    frame = _scan(artifact, "examples/train.parquet").filter(named).select("id", "meta").collect()
    children_of = ((name, json.loads(meta).get(MADE)) for name, meta in frame.iter_rows())
    return [{"id": name, "by": made["by"]} for name, made in children_of if made and example_id in made["parents"]]


def _scan(artifact: Artifact, name: str) -> polars.LazyFrame:
    import polars as pl

    return pl.scan_parquet(artifact.path(name))


def _whole_id(artifact: Artifact, beginning: str) -> str:
    """The one id with this beginning, or the row that the source itself names so."""
    import polars as pl

    found: set[str] = set()
    tables = [f"examples/{split}.parquet" for split in list_splits(artifact)] + ["events.parquet"]
    if len(beginning) >= _SHORTEST:
        for table in tables:
            frame = _scan(artifact, table).filter(pl.col("id").str.starts_with(beginning)).select("id").collect()
            found.update(frame["id"])
    if beginning in found:
        return beginning
    if not found and (own := _by_own_id(artifact, beginning)):
        return own
    if not found:
        found = _at_place(artifact, beginning, tables)
    if len(found) == 1:
        return found.pop()
    if found:
        shown = ", ".join(sorted(found)[:4])
        what = f"{len(found)} examples have an id that begins with {beginning!r}, or stand in that place"
        raise UnknownName(what, hint=f"such as {shown}")
    if (location := _place(beginning)) is not None:
        raise _nothing_there(artifact, location, tables)
    hint = "ids stand in the first column of the data set's tables; at least four characters are needed; or give the "
    hint += "row's place as FILE:LINE, by which dropped rows are found, too"
    raise UnknownName(f"no example has the id {beginning!r}", hint=hint)


_LINE_DIGITS = 18
"""No file has a line whose number is longer."""


class _Place(NamedTuple):
    """A line of a file, as somebody wrote it."""

    file: str
    line: int

    def has_file(self) -> polars.Expr:
        """Rows of the file; its folder may be left out."""
        import polars as pl

        return (pl.col("file") == self.file) | pl.col("file").str.ends_with(f"/{self.file}")


def _place(word: str) -> _Place | None:
    name, _, line = word.rpartition(":")
    is_one = name and line.removeprefix("-").isdecimal() and len(line) <= _LINE_DIGITS
    return _Place(name, int(line)) if is_one else None


def _at_place(artifact: Artifact, word: str, tables: list[str]) -> set[str]:
    """The rows that came from a line of a file: kept, edited or dropped."""
    import polars as pl

    found: set[str] = set()
    if (location := _place(word)) is not None:
        for table in tables:
            here = _scan(artifact, table).filter(location.has_file() & (pl.col("line") == location.line))
            found.update(here.select("id").collect()["id"])
    return found


def _nothing_there(artifact: Artifact, location: _Place, tables: list[str]) -> UnknownName:
    """That no row begins on a line of a file, and on which lines next to it some do; or that the file has none."""
    import polars as pl

    lines: set[int] = set()
    files: set[str] = set()
    for table in tables:
        rows = _scan(artifact, table)
        lines.update(rows.filter(location.has_file()).select("line").collect()["line"].drop_nulls())
        files.update(rows.select(pl.col("file").unique()).collect()["file"].drop_nulls())
    if not lines:
        what = f"no example came from a file {location.file!r}"
        return UnknownName(what, hint=did_you_mean(location.file, files))
    around = [max((line for line in lines if line < location.line), default=None)]
    around.append(min((line for line in lines if line > location.line), default=None))
    near = " and ".join(str(entry) for entry in around if entry is not None)
    what = f"no example begins on line {location.line} of {location.file}"
    return UnknownName(what, hint=f"the next to it begin on {near}" if " and " in near else f"the next is on {near}")


def _by_own_id(artifact: Artifact, value: str) -> str | None:
    """The row of which the column says so that names rows: the recipe's, else `id`."""
    import polars as pl

    column = artifact.manifest.settings.get("source", {}).get("id") or "id"
    names = json.dumps(column, ensure_ascii=False)
    for split in list_splits(artifact):
        rows = _scan(artifact, f"examples/{split}.parquet").filter(pl.col("meta").str.contains(names, literal=True))
        frame = rows.select("id", "meta").collect()
        for example, meta in frame.iter_rows():
            if str(json.loads(meta).get(column)) == value:
                return str(example)
    return None


def _events(artifact: Artifact, example_id: str) -> list[dict[str, Any]]:
    import polars as pl

    frame = _scan(artifact, "events.parquet").filter(pl.col("id") == example_id).collect()
    return [{**row, "origin": _origin(row, "file", "line")} for row in frame.iter_rows(named=True)]


def _example(artifact: Artifact, example_id: str) -> dict[str, Any]:
    """What the data set holds of an example that was kept."""
    import polars as pl

    for split in list_splits(artifact):
        frame = _scan(artifact, f"examples/{split}.parquet").filter(pl.col("id") == example_id).collect()
        if frame.height:
            row = frame.row(0, named=True)
            return {
                "origin": _origin(row, "source", "file", "line"),
                "split": split,
                **{key: row[key] for key in ("kind", "label", "group")},
                "messages": json.loads(row["messages"]),
                "meta": json.loads(row["meta"]),
            }
    return {}


def _origin(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Where a row stands; with its row where a spreadsheet counts another one than the line's."""
    found = {key: row[key] for key in keys}
    return found if row.get("row") is None else {**found, "row": row["row"]}


def _source(artifact: Artifact) -> str:
    return str(artifact.manifest.settings.get("source", {}).get("kind", ""))


def _attributes(artifact: Artifact, example_id: str) -> dict[str, dict[str, Any]]:
    """What operators noted about it, by operator."""
    import polars as pl

    found: dict[str, dict[str, Any]] = {}
    for entry in artifact.manifest.files:
        if entry.path.startswith("attributes/"):
            frame = _scan(artifact, entry.path).filter(pl.col("id") == example_id).collect()
            if frame.height:
                values = {key: value for key, value in frame.row(0, named=True).items() if key != "id"}
                found[entry.path.removeprefix("attributes/").removesuffix(".parquet")] = values
    return found
