"""JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.data.formats import json_rows
from luthier.data.formats import json_rows as nested
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import LOOKED_AT, FileSource, Say, SuggestedSettings


class Json(FileSource):
    """JSON files with an array of objects, or an object that holds one; read element by element."""

    kind: Literal["json"] = "json"
    endings: ClassVar[tuple[str, ...]] = (".json",)
    names_columns: ClassVar[bool] = True
    rows: str | None = None
    """The member that holds the rows, when the file is an object with several arrays, or with one that lies deeper
    (`data.tickets`); else the only one is taken."""
    flatten: bool = False
    """Give what lies in objects inside of a row columns of their own: `{"question": {"text": …}}` becomes the column
    `question.text`. A task of Self-Instruct becomes a row for each of its `instances`."""
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first bytes show; otherwise a name such as latin-1."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """An array of objects, or an object that is no line of JSON lines."""
        if look.start.startswith("["):
            return FormatMatch.LIKELY if look.start[1:].lstrip().startswith("{") else FormatMatch.NO
        inside = look.start[1:].lstrip()
        return (
            FormatMatch.LIKELY if look.start.startswith("{") and (not inside or inside[0] in '"}') else FormatMatch.NO
        )

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every object with the line on which it starts."""
        found = json_rows.read_json_rows(file, encoding=self.encoding, rows=self.rows, say=say)
        return nested.flatten_rows(found) if self.flatten else found

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """The array inside that holds the rows, and whether their texts lie in objects."""
        settings: dict[str, Any] = {}
        reasons = {}
        rows = _first_rows(self, recipe_dir)
        inner = (
            nested.find_inner_array(rows[0], json_rows.CONVERSATIONS) if self.rows is None and len(rows) == 1 else None
        )
        if inner is not None:
            settings["rows"] = inner
            reasons["rows"] = "the only array of objects in the file"
            rows = _first_rows(self.model_copy(update={"rows": inner}), recipe_dir)
        if len(rows) == 1 and nested.is_columnar_object(rows[0]):
            hint = "write one object a row; in pandas: df.to_json('rows.json', orient='records')"
            raise DataError("holds columns, and rows are wanted", where=SourceLocation(file=self.path), hint=hint)
        if len(rows) == 1 and (found := nested.find_rows_keyed_by_name(rows[0])) is not None:
            raise _rows_by_name(self.path, *found)
        if not self.flatten and nested.has_nested_texts(rows):
            settings["flatten"] = True
            reasons["flatten"] = "texts lie in objects inside of the rows"
        return SuggestedSettings(settings, reasons)


def _rows_by_name(path: str, holder: str, rows: dict[str, Any]) -> DataError:
    """Objects that stand under names of their own, where an array of them is wanted."""
    inside = f"{holder!r} holds" if holder else "holds"
    what = f"{inside} {len(rows)} objects by their names ({next(iter(rows))}, …), and an array of them is wanted"
    way = f".{json.dumps(holder, ensure_ascii=False)} | " if holder else ""
    hint = f"write one: jq '[{way}to_entries[] | {{id: .key}} + .value]' {Path(path).name} > rows.json"
    return DataError(what, where=SourceLocation(file=path), hint=hint)


def _first_rows(source: Json, recipe_dir: Path) -> list[dict[str, Any]]:
    found = islice(source.read(recipe_dir, lambda text: None), LOOKED_AT)
    return [entry.values for entry in found if isinstance(entry, SourceRecord)]
