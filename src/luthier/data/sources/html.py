"""Web pages that lie as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.document_source import DocumentSource, import_document_library
from luthier.data.formats import documents
from luthier.data.formats.documents import Paragraph
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import UndecodableLine, read_text_head, read_text_lines
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow


class Html(DocumentSource):
    """HTML files, as text to continue: the main text without menus and footers.

    A row's line is the number of its first paragraph. No script is run, and no link is followed.
    """

    kind: Literal["html"] = "html"
    libraries: ClassVar[Mapping[str, str]] = {"trafilatura": "documents"}
    endings: ClassVar[tuple[str, ...]] = (".html", ".htm", ".xhtml")
    chunk_by: Literal["document", "heading", "length"] = "document"
    """What one row is: the whole page, what stands under one heading, or so many characters."""
    main: bool = True
    """Keep only the main text, as trafilatura finds it; `false` keeps all text of the page."""
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first bytes show; otherwise a name such as latin-1."""

    def check_installed(self, recipe_dir: Path) -> None:
        """Only the main text is found by a library."""
        if self.main:
            super().check_installed(recipe_dir)

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A page's beginning, or a tag and the ending."""
        named = look.ending in cls.endings
        if (named or look.declares_markup) and "<html" in look.start[:200].lower():
            return FormatMatch.CERTAIN
        return FormatMatch.POSSIBLE if named and look.start.startswith("<") else FormatMatch.NO

    def paragraphs(self, file: SourceFile) -> Iterator[Paragraph | BrokenRow]:
        """The paragraphs of the page, each under its heading."""
        text: list[str] = []
        for number, line in enumerate(read_text_lines(file, read_text_head(file, self.encoding)), start=1):
            if isinstance(line, UndecodableLine):
                yield BrokenRow(file.name, number, line.problem, hint=line.hint)
            else:
                text.append(line)
        page = "".join(text)
        found = _main_text(page, file) if self.main else ""
        heading = ""
        for number, part in enumerate((found or documents.html_to_text(page)).split("\n\n"), start=1):
            if part.startswith("#"):
                heading = part.lstrip("# ").partition("\n")[0].strip()
            yield Paragraph(part, number, heading)


def _main_text(page: str, file: SourceFile) -> str:
    """The main text as Markdown, its headings marked; nothing where none can be told."""
    trafilatura = import_document_library("trafilatura", file)
    found = trafilatura.extract(page, output_format="markdown", include_comments=False, include_formatting=True)
    return found or ""
