"""The base of document sources: one row a document or a chunk, as text to continue."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from luthier.core.errors import DataError, MissingExtra
from luthier.core.events import format_counted_noun
from luthier.data.formats.documents import By, Paragraph, chunk_paragraphs
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say, SuggestedSettings

_ENOUGH_PIECES = 10
_MANY_PIECES = 10_000
"""No more are counted."""
_SHORT: dict[str, Any] = {"chunk_by": "length", "chunk_size": 1000}
"""How a document is cut that makes few pieces otherwise."""


class DocumentSource(FileSource):
    """Documents as text to continue; a row holds `text`, `document` and `piece`."""

    chunk_by: By = "document"
    """What one row is: the whole document, or a part of it."""
    chunk_size: int = Field(default=4000, ge=100)
    """With `chunk_by: length`: at most so many characters a row, cut between paragraphs, sentences or words."""

    @abstractmethod
    def paragraphs(self, file: SourceFile) -> Iterator[Paragraph | BrokenRow]:
        """The paragraphs of one document, in order."""

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """Pieces of a document that stands alone: as one row, nothing of it could be held out."""
        if self.chunk_by != "document" or len(self.files(recipe_dir)) != 1:
            return SuggestedSettings({}, {})
        for settings in ({"chunk_by": "heading"}, {"chunk_by": "page"}, {"chunk_by": "length"}, _SHORT):
            if settings["chunk_by"] in get_args(type(self).model_fields["chunk_by"].annotation):
                found = self.model_copy(update=settings).read(recipe_dir, lambda text: None)
                pieces = sum(isinstance(entry, SourceRecord) for entry in islice(found, _MANY_PIECES))
                if pieces >= _ENOUGH_PIECES or (settings is _SHORT and pieces > 1):
                    return SuggestedSettings(settings, {"chunk_by": _why_pieces(pieces)})
        return SuggestedSettings({}, {})

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one document; one that cannot be read is a broken row."""
        try:
            yield from chunk_paragraphs(self.paragraphs(file), self.chunk_by, self.chunk_size, file.name)
        except DataError as error:
            if not error.where.file or not file.exists():
                raise
            yield BrokenRow(file.name, error.where.line or 1, error.message, hint=error.hint)


def _why_pieces(pieces: int) -> str:
    so_many = f"{pieces:,} or more" if pieces == _MANY_PIECES else format_counted_noun(pieces, "row")
    return f"the whole document would be one row, of which nothing can be held out; so it makes {so_many}"


def import_document_library(name: str, file: SourceFile) -> Any:
    """A library of the extra `documents`; `MissingExtra` when it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "pip install 'luthier[documents]'"
        raise MissingExtra(f"needs {error.name or name} to be read", where=file.where, hint=hint) from error
