"""Folders of pictures and sounds, by class or with a table of what belongs to each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import expand_env_vars, resolve_path
from luthier.data.columns.media import MEDIA_ENDINGS, TABLES, is_media_path, kind_of_media_path, parse_page_address
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import glob_inside, is_url
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say

_NAMES = {"file_name": False, "file_names": True}
"""Columns of `metadata.csv` and `metadata.jsonl` that name files, and whether each cell names several."""
_FITTING = 0.5
"""So many of a folder's files are pictures, or sounds, where it is read as a folder of them."""


class MediaFolderSource(FileSource):
    """A folder or a zip of pictures or sounds, as `imagefolder` and `audiofolder` of `datasets` read them.

    With a `metadata.csv` or `metadata.jsonl`, whose column `file_name` (or `file_names`) names files beside it, each
    row of the table is a row, with the file in the column `image` or `audio`. Without one, each file is a row, and the
    folder in which it lies is its class: the columns are `image` or `audio`, and `label`.
    """

    kind: Literal["mediafolder"] = "mediafolder"
    endings: ClassVar[tuple[str, ...]] = ()

    @property
    def media_root(self) -> str:
        """The folder itself, unless another one is named."""
        return self.media_folder or self.path

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A folder, or a zip, that holds pictures or sounds in folders of their own, or beside a table of them."""
        if look.ending != "/" and not look.name.lower().endswith(".zip"):
            return FormatMatch.NO
        names = [PurePosixPath(name) for name in look.paths or look.members if not name.endswith("/")]
        media = [name for name in names if is_media_path(name)]
        if not media or len(media) < _FITTING * len(names):
            return FormatMatch.NO
        by_class = sum(len(name.parts) > 1 for name in media) * 2 > len(media)
        return FormatMatch.EXACT if by_class or TABLES & {name.name for name in names} else FormatMatch.NO

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The media and the tables about them, in order; a link that leads out of the folder is refused."""
        where = SourceLocation(file=self.path)
        if is_url(expand_env_vars(self.path)):
            raise DataError("is a URL", where=where, hint="copy the folder to this machine, and name it here")
        path = resolve_path(self.path, recipe_dir)
        if path.is_dir():
            found = glob_inside(path, "**/*", self.path.rstrip("/"))
        elif path.is_file() and path.suffix.lower() == ".zip":
            found = SourceFile(path, self.path).inside()
        else:
            hint = "name a folder, or a zip, of pictures or sounds"
            raise DataError("there is no such folder", where=where, hint=hint)
        fitting = [
            file for file in found if _is_table(file) or PurePosixPath(file.name).suffix.lower() in MEDIA_ENDINGS
        ]
        if not fitting:
            hint = f"known endings: {', '.join(sorted(MEDIA_ENDINGS))}"
            raise DataError("holds no picture and no sound", where=where, hint=hint)
        return fitting

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield a row for each row of the tables, or, where there is none, for each file."""
        files = self.files(recipe_dir)
        tables = [file for file in files if _is_table(file)]
        for file in tables:
            yield from self.read_file(file, say)
        if tables:
            return
        for file in files:
            below = PurePosixPath(file.name.removeprefix(f"{self.path.rstrip('/')}/"))
            label = below.parts[-2] if len(below.parts) > 1 else None
            yield SourceRecord({kind_of_media_path(below): str(below), "label": label}, file.name, 1)

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of one table."""
        from luthier.data.sources.csv import Csv
        from luthier.data.sources.jsonl import Jsonl

        source = (Jsonl if file.ending == ".jsonl" else Csv)(path=file.name)
        folder = PurePosixPath(file.name.removeprefix(f"{self.path.rstrip('/')}/")).parent
        for record in source.read_file(file, say):
            yield record if isinstance(record, BrokenRow) else _with_files(record, folder)


def _is_table(file: SourceFile) -> bool:
    return PurePosixPath(file.name).name in TABLES


def _with_files(record: SourceRecord, folder: PurePosixPath) -> SourceRecord | BrokenRow:
    """A row of a table with the files that it names in columns of media."""
    column = next((name for name in _NAMES if name in record.values), None)
    if column is None:
        hint = "name the file of each row in a column `file_name`, from the folder of the table on"
        return BrokenRow(record.file, record.line, "the row names no file", "file_name", hint, row=record.row)
    values = dict(record.values)
    named = values.pop(column)
    names = named if isinstance(named, list) else [named]
    paths = [folder / str(name) for name in names]
    kinds = {kind_of_media_path(PurePosixPath(parse_page_address(str(path)).file)) for path in paths}
    if len(kinds) != 1 or not all(names):
        what = "names pictures, sounds and films together" if len(kinds) > 1 else "the row names no file"
        return BrokenRow(record.file, record.line, what, column, "name files of one kind", row=record.row)
    (kind,) = kinds
    found = [str(path) for path in paths]
    return record._replace(
        values={f"{kind}s" if _NAMES[column] else kind: found if _NAMES[column] else found[0], **values}
    )
