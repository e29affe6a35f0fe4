"""JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.formats import json_rows, lines
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import LOOKED_AT, FileSource, Say, SuggestedSettings


class Jsonl(FileSource):
    """Files with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"
    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    names_columns: ClassVar[bool] = True
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first lines show; otherwise a name such as latin-1."""
    flatten: bool = False
    """Give what lies in objects inside of a row columns of their own: `{"question": {"text": …}}` becomes the column
    `question.text`. A task of Self-Instruct becomes a row for each of its `instances`."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """Its first line is an object, and a second one stands behind it, or the ending says so."""
        if look.first_object is None:
            first, _, second = look.start.partition("\n")
            is_spread = first.strip() == "{" and second.lstrip().startswith('"')  # one object over several lines
            named = look.ending in cls.endings and look.start.startswith("{")
            return FormatMatch.POSSIBLE if named and not is_spread else FormatMatch.NO
        another = look.start.partition("\n")[2].lstrip().startswith("{")
        return FormatMatch.CERTAIN if another or look.ending in cls.endings else FormatMatch.LIKELY

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every object with its line."""
        found = lines.read_jsonl_rows(file, encoding=self.encoding, say=say)
        return json_rows.flatten_rows(found) if self.flatten else found

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """Whether texts lie in objects inside of the rows."""
        found = islice(self.read(recipe_dir, lambda text: None), LOOKED_AT)
        if self.flatten or not json_rows.has_nested_texts(
            [entry.values for entry in found if isinstance(entry, SourceRecord)]
        ):
            return SuggestedSettings({}, {})
        return SuggestedSettings({"flatten": True}, {"flatten": "texts lie in objects inside of the rows"})
