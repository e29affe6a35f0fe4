"""PDF documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from luthier.core.errors import DataError
from luthier.data.document_source import DocumentSource, import_document_library
from luthier.data.formats.documents import Paragraph
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow

_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError, RecursionError,
    TypeError, ValueError,
)  # fmt: skip
"""What pypdf raises at damaged files, beside its own errors."""
_SILENT = logging.NullHandler()
"""Keeps what pypdf remarks of damaged files off the screen, where nobody set up logs: it is in the error."""


class Pdf(DocumentSource):
    """PDF files, as text to continue: a row is a document, a page, or a length; a row's line is its page."""

    kind: Literal["pdf"] = "pdf"
    libraries: ClassVar[Mapping[str, str]] = {"pypdf": "documents"}
    endings: ClassVar[tuple[str, ...]] = (".pdf",)
    chunk_by: Literal["document", "page", "length"] = "document"
    """What one row is: the whole document, one page, or so many characters."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """Its first bytes."""
        return FormatMatch.CERTAIN if look.data[:1024].lstrip().startswith(b"%PDF-") else FormatMatch.NO

    def paragraphs(self, file: SourceFile) -> Iterator[Paragraph | BrokenRow]:
        """The text of each page; a page that cannot be read is a broken row."""
        pypdf = import_document_library("pypdf", file)
        logging.getLogger("pypdf").addHandler(_SILENT)
        faults = (pypdf.errors.PyPdfError, *_FAULTS)
        with file.local() as path:
            try:
                reader = pypdf.PdfReader(path)
                locked = reader.is_encrypted and not reader.decrypt("")
                count = 0 if locked else len(reader.pages)
            except faults as error:
                hint = "check that it is whole; print it to a new PDF"
                raise DataError(f"is not a PDF that can be read: {error}", where=file.where, hint=hint) from error
            if locked:
                raise DataError("is locked with a password", where=file.where, hint="unlock it, or leave it out")
            for number in range(1, count + 1):
                try:
                    yield Paragraph(reader.pages[number - 1].extract_text(), number)
                except faults as error:
                    yield BrokenRow(file.name, number, f"page {number} cannot be read: {error}")
