"""What sources of documents share: one row a document or a piece, as text to continue."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from luthier.core.errors import DataError, MissingExtra
from luthier.data.formats.file import File
from luthier.data.formats.pieces import By, Paragraph, rows
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class DocumentSource(FileSource):
    """Documents as text to continue; a row holds `text`, `document` and `piece`."""

    piece: By = "document"
    """What one row is: the whole document, or a part of it."""
    length: int = Field(default=4000, ge=100)
    """With `piece: length`: at most so many characters a row, cut between paragraphs, sentences or words."""

    @abstractmethod
    def paragraphs(self, file: File) -> Iterator[Paragraph | Broken]:
        """The paragraphs of one document, in order."""

    def read_file(self, file: File, say: Say) -> Iterator[Record | Broken]:
        """Yield the rows of one document; one that cannot be read is a broken row."""
        try:
            yield from rows(self.paragraphs(file), self.piece, self.length, file.name)
        except DataError as error:
            if not error.where.file or not file.exists():
                raise
            yield Broken(file.name, error.where.line or 1, error.message, remedy=error.remedy)


def library(name: str, file: File) -> Any:
    """A library of the extra `documents`; `MissingExtra` when it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = "pip install 'luthier[documents]'"
        raise MissingExtra(f"needs {error.name or name} to be read", where=file.where, remedy=remedy) from error
