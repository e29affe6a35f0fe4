"""Files of judgments: found below a path, read whole, and recognised; what people have judged fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.core.component import members
from luthier.core.errors import DataError, Where
from luthier.data.formats.file import File
from luthier.data.label.judgment import Item
from luthier.data.label_format import LabelFormat, Say
from luthier.data.recognise import source_of
from luthier.data.row import Broken, Record

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq")
_LOOKED_AT = 20


class Named(NamedTuple):
    """A file, and how the recipe names it."""

    path: Path
    name: str


class Placed(NamedTuple):
    """An item or a broken row, and the file that it stands in."""

    file: str
    found: Item | Broken


def files(place: Path, name: str) -> list[Named]:
    """The file, or all files of the folder that can be read, in order of their names."""
    if not place.is_dir():
        return [Named(place, name)]
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        remedy = f"known endings: {', '.join(ENDINGS)}"
        raise DataError("holds no file that can be read", where=Where(file=name), remedy=remedy)
    for path in found:
        if not path.resolve().is_relative_to(place.resolve()):
            raise DataError("leads out of the folder", where=Where(file=str(path)), remedy="copy the file into it")
    return [Named(path, f"{name.rstrip('/')}/{path.relative_to(place).as_posix()}") for path in found]


def items(file: Named, asked: LabelFormat | None, say: Say) -> Iterator[Placed]:
    """The items of one file, in its order, in the format that was asked for or that its rows show."""
    records: list[Record] = []
    here = File(file.path, file.name)
    for found in source_of(here).read_file(here, say):
        if isinstance(found, Broken):
            yield Placed(file.name, found)
        else:
            records.append(found)
    if records:
        yield from (Placed(file.name, one) for one in _format(records, file, asked, say).items(records, file.name, say))


def _format(records: Sequence[Record], file: Named, asked: LabelFormat | None, say: Say) -> LabelFormat:
    if asked is not None:
        return asked
    rows = [record.values for record in records[:_LOOKED_AT]]
    for member in sorted(members(LabelFormat).values(), key=lambda one: (one.order, one.__name__)):
        found = member.model_validate({})
        if found.fits(rows):
            say(f"{file.name}: read as {member.says}")
            return found
    known = ", ".join(sorted(members(LabelFormat)))
    remedy = f"set `format` to one of {known}; a table is told who judged by `format: {{kind: table, annotator: …}}`"
    raise DataError("cannot tell who judged what here", where=Where(file=file.name), remedy=remedy)
