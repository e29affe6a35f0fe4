"""A folder of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.core.digest import files_digest
from luthier.core.errors import DataError, Where
from luthier.core.paths import PathText, locate
from luthier.data.formats import by_suffix
from luthier.data.row import Broken, Record
from luthier.data.source import Say, Source


class Folder(Source):
    """All CSV, TSV, JSONL, Parquet and text files of a folder, in order of their names."""

    kind: Literal["folder"] = "folder"
    path: PathText
    """The folder; a relative path starts at the recipe's folder, and `$NAME` is taken from the environment."""
    glob: str = Field(default="**/*", min_length=1)
    """Which files are read, such as `*.jsonl` or `2024/**/*.csv`."""

    def read(self, base: Path, say: Say) -> Iterator[Record | Broken]:
        """Yield the rows of every file, one file after the other."""
        found = self.files(base)
        if not found:
            remedy = f"`glob` is {self.glob!r}; known endings: {', '.join(sorted(by_suffix.SUFFIXES))}"
            raise DataError("holds no file that can be read", where=Where(file=self.path), remedy=remedy)
        for file in found:
            yield from by_suffix.read(file, self._name(file, base), say)

    def files(self, base: Path) -> list[Path]:
        """The files, sorted; a link that leads out of the folder is refused."""
        root = locate(self.path, base)
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "there is no such folder"
            raise DataError(what, where=Where(file=self.path), remedy="check `path`; it starts at the recipe's folder")
        try:
            found = sorted(path for path in root.glob(self.glob) if path.is_file() and not _hidden(path, root))
        except (ValueError, NotImplementedError) as error:
            remedy = "write a pattern such as *.jsonl or 2024/**/*.csv"
            what = f"{self.glob!r} is not a pattern: {error}"
            raise DataError(what, where=Where(field="glob"), remedy=remedy) from error
        for path in found:
            if not path.resolve().is_relative_to(root.resolve()):
                remedy = "copy the file into the folder"
                raise DataError("leads out of the folder", where=Where(file=self._name(path, base)), remedy=remedy)
        return [path for path in found if path.suffix.lower() in by_suffix.SUFFIXES]

    def _name(self, file: Path, base: Path) -> str:
        return f"{self.path.rstrip('/')}/{file.relative_to(locate(self.path, base)).as_posix()}"

    def fingerprint(self, base: Path) -> str | None:
        """A digest of the files' names and contents; None when there is no such folder."""
        root = locate(self.path, base)
        return files_digest(self.files(base), root) if root.is_dir() else None

    def size(self, base: Path) -> int | None:
        """The bytes of all files."""
        return sum(file.stat().st_size for file in self.files(base)) if (locate(self.path, base)).is_dir() else None


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.relative_to(root).parts)
