"""Files of judgments: found below a path, read whole, and recognised; what people have judged fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, SourceLocation
from luthier.data.annotation.annotations import AnnotatedItem
from luthier.data.columns.recognize import build_source_for_file
from luthier.data.formats.files import SourceFile
from luthier.data.label_format import LabelFormat, Say
from luthier.data.row import BrokenRow, SourceRecord

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq", ".arrow")
BOOKS = frozenset({"dataset_dict.json", "dataset_info.json", "state.json", "settings.json", "labels.json"})
"""Files beside judgments that hold none: of a `datasets` folder, and of our own exports."""
LABELS = "labels"
"""The kind of source that reads judgments; below it, the same files are read as the rows that they are."""
_LOOKED_AT = 20


class ItemOrBrokenRow(NamedTuple):
    """An item or a broken row, with the file that it was read from."""

    file: str
    found: AnnotatedItem | BrokenRow


def read_annotated_items(file: SourceFile, requested_format: LabelFormat | None, say: Say) -> Iterator[ItemOrBrokenRow]:
    """The items of one file, in its order, in the format that was asked for or that its rows show."""
    records: list[SourceRecord] = []
    for found in build_source_for_file(file, but=LABELS).read_file(file, say):
        if isinstance(found, BrokenRow):
            yield ItemOrBrokenRow(file.name, found)
        else:
            records.append(found)
    if records:
        yield from (
            ItemOrBrokenRow(file.name, entry)
            for entry in _format(records, file, requested_format, say).items(records, file.name, say)
        )


def _format(
    records: Sequence[SourceRecord], file: SourceFile, requested_format: LabelFormat | None, say: Say
) -> LabelFormat:
    if requested_format is not None:
        return requested_format
    rows = [record.values for record in records[:_LOOKED_AT]]
    for member in sorted(components_by_kind(LabelFormat).values(), key=lambda entry: (entry.order, entry.__name__)):
        label_format = member.model_validate({})
        if label_format.fits(rows):
            say(f"{file.name}: read as {member.says}")
            return label_format
    known = ", ".join(sorted(components_by_kind(LabelFormat)))
    hint = f"set `format` to one of {known}; a table is told who judged by `format: {{kind: table, annotator: …}}`"
    raise DataError("cannot tell who judged what here", where=SourceLocation(file=file.name), hint=hint)
