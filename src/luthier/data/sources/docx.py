"""Word documents."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from luthier.core.errors import DataError
from luthier.data.document_source import DocumentSource, import_document_library
from luthier.data.formats import archives
from luthier.data.formats.documents import Paragraph
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow

_MOST_BYTES = 256 << 20
_FAULTS = (
    AttributeError, LookupError, OSError, RecursionError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What python-docx and the zip below it raise at damaged files, beside its own errors."""


class Docx(DocumentSource):
    """Word documents (docx), as text to continue: a row is a document, a section, or a length.

    A row's line is the number of its first paragraph or table. Pictures, comments and macros are not read.
    """

    kind: Literal["docx"] = "docx"
    libraries: ClassVar[Mapping[str, str]] = {"docx": "documents"}
    endings: ClassVar[tuple[str, ...]] = (".docx", ".docm")
    chunk_by: Literal["document", "heading", "length"] = "document"
    """What one row is: the whole document, what stands under one heading, or so many characters."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A zip with a document inside."""
        return FormatMatch.CERTAIN if "word/document.xml" in look.members else FormatMatch.NO

    def paragraphs(self, file: SourceFile) -> Iterator[Paragraph | BrokenRow]:
        """Paragraphs and tables in their order."""
        docx = import_document_library("docx", file)
        from lxml.etree import XMLSyntaxError

        with file.local() as path:
            with path.open("rb") as opened:
                archives.refuse_oversized_document(opened, _MOST_BYTES, file.name)
            try:
                yield from _paragraphs(docx.Document(str(path)))
            except (docx.opc.exceptions.OpcError, XMLSyntaxError, *_FAULTS) as error:
                problem = f"is not a Word document that can be read: {error}"
                hint = "check that it is whole; save it anew from a word processor"
                raise DataError(problem, where=file.where, hint=hint) from error


def _paragraphs(document: Any) -> Iterator[Paragraph]:
    heading = ""
    for number, block in enumerate(document.iter_inner_content(), start=1):
        if hasattr(block, "rows"):
            yield Paragraph("\n".join(_table_rows(block)), number, heading)
            continue
        style = (block.style.name or "").lower() if block.style is not None else ""
        if style.startswith(("heading", "title")) and block.text.strip():
            heading = block.text.strip()
        yield Paragraph(block.text, number, heading)


def _table_rows(table: Any) -> Iterator[str]:
    for row in table.rows:
        cells = list(dict.fromkeys(cell.text.strip() for cell in row.cells))
        yield " | ".join(cells)
