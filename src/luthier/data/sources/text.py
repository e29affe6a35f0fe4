"""Plain text and Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.document_source import DocumentSource
from luthier.data.formats import files
from luthier.data.formats.documents import Paragraph
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import UndecodableLine, read_text_head, read_text_lines
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say


class TextSource(DocumentSource):
    """Plain text and Markdown files, as text to continue: a row is a file, a section under a heading, or a length."""

    kind: Literal["text"] = "text"
    endings: ClassVar[tuple[str, ...]] = (".txt", ".md", ".markdown", ".rst", ".text")
    chunk_by: Literal["document", "heading", "length"] = "document"
    """What one row is: the whole file, what stands under one heading of Markdown (`# …`), or so many characters."""
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first lines show; otherwise a name such as latin-1."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """Any text but that of a word processor."""
        return FormatMatch.POSSIBLE if look.start and not look.start.startswith("{\\rtf") else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one file; what looks like a chat, subtitles or a mail is said to be read as plain text."""
        if file.exists() and (description := files.describe_text_content(FileSample.at(file).text)):
            say(f"{file.name}: {description}")
        yield from super().read_file(file, say)

    def paragraphs(self, file: SourceFile) -> Iterator[Paragraph | BrokenRow]:
        """What stands between blank lines; a line that cannot be decoded is left out as broken."""
        marked = file.ending in (".md", ".markdown")
        held: list[str] = []
        start_line, heading, fenced = 1, "", False
        for number, line in enumerate(read_text_lines(file, read_text_head(file, self.encoding)), start=1):
            if isinstance(line, UndecodableLine):
                yield BrokenRow(file.name, number, line.problem, hint=line.hint)
                continue
            fenced ^= marked and line.lstrip().startswith(("```", "~~~"))
            titled = marked and not fenced and _heading(line)
            if held and (titled or not line.strip()) and not fenced:
                yield Paragraph("".join(held).rstrip("\r\n"), start_line, heading)
                held = []
            if titled:
                heading = titled
            if line.strip() or (fenced and held):
                start_line = start_line if held else number
                held.append(line)
        if held:
            yield Paragraph("".join(held).rstrip("\r\n"), start_line, heading)


def _heading(line: str) -> str:
    marks = line[: len(line) - len(line.lstrip("#"))]
    return line[len(marks) :].strip() if 0 < len(marks) <= 6 and line[len(marks) :][:1] in (" ", "\t") else ""
