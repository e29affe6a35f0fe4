"""A folder of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.files import expand_env_vars, resolve_path
from luthier.data.columns.recognize import (
    build_source_for_file,
    file_kinds,
    list_file_extensions,
    recognize_source_kind,
)
from luthier.data.document_source import DocumentSource
from luthier.data.formats import files as guises
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import glob_inside, is_url, list_matching_files
from luthier.data.formats.sniff import FileSample
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say
from luthier.data.sources.text import TextSource

_CARDS = "about the others"
_ABOUT = frozenset({"readme", "source", "sources", "license", "licence", "notice", "citation", "changelog"})
"""Names of texts that say something about the files beside them."""
_INDEX = ".index.jsonl"
"""How the index ends that the form `openai` writes beside `SPLIT.jsonl`."""


class FolderSource(FileSource):
    """All files of a folder that some source reads, in order of their names, each by the kind of its content.

    A README beside files of rows says what they are, as that of an export does, and is left out, as are other texts
    that are named so (SOURCE, LICENSE, in capitals or as usual), and the index that the form `openai` writes beside its
    rows. Among documents, a README is one of them.
    """

    kind: Literal["folder"] = "folder"
    glob: str = Field(default="**/*", min_length=1)
    """Which files are read, such as `*.jsonl` or `2024/**/*.csv`."""

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of every file, one file after the other; files that nothing reads are named."""
        left: dict[str, list[str]] = {_CARDS: [], "of no known kind": [], "without content": []}
        read = False
        files = self.files(recipe_dir)
        rows = any(map(_is_card, files)) and any(map(_has_rows, files))
        for file in files:
            look = FileSample.at(file)
            source = recognize_source_kind(look)
            if rows and _is_card(file):
                left[_CARDS].append(file.name)
                continue
            if source is None or not source.sure:
                left["of no known kind" if look.data else "without content"].append(file.name)
                continue
            read = True
            yield from self.read_file(file, say)
        for why, names in left.items():
            if names:
                say(f"{self.path}: {format_counted_noun(len(names), 'file')} {why} left out, such as {names[0]}")
        if not read:
            hint = f"`glob` is {self.glob!r}; known endings: {', '.join(list_file_extensions())}"
            if any(name.lower().endswith(".eml") for name in left["of no known kind"]):
                hint = f"of mails, make a mailbox, whose threads are read; in the folder: {guises.MAILBOX}"
            raise DataError("holds no file that can be read", where=SourceLocation(file=self.path), hint=hint)

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one file."""
        return build_source_for_file(file).read_file(file, say)

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The files, sorted; a link that leads out of the folder is refused."""
        whole = expand_env_vars(self.path)
        if is_url(whole):
            return list_matching_files(self.path, recipe_dir, lambda file: True, f"`glob` is {self.glob!r}")
        root = resolve_path(self.path, recipe_dir)
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "there is no such folder"
            raise DataError(
                what, where=SourceLocation(file=self.path), hint="check `path`; it starts at the recipe's folder"
            )
        return glob_inside(root, self.glob, self.path.rstrip("/"))


def _is_card(file: SourceFile) -> bool:
    stem = file.path.stem
    named = file.ending in (*TextSource.endings, "") and (stem.lower() in _ABOUT or stem.isupper())
    rows = file.path.name.removesuffix(_INDEX)
    is_index = rows != file.path.name and file.path.with_name(f"{rows}.jsonl").exists()
    return is_index or (named and not _has_rows(file))


def _has_rows(file: SourceFile) -> bool:
    """Whether it holds rows, and no document."""
    source = recognize_source_kind(FileSample.at(file))
    return source is not None and source.sure and not issubclass(file_kinds()[source.kind], DocumentSource)
