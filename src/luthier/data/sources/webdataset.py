"""Tar files of samples, as WebDataset writes them."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from luthier.chat.media_codec import MAX_BYTES
from luthier.core.errors import DataError
from luthier.data.columns.media import MEDIA_ENDINGS, kind_of_media_path
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import json_type_name, parse_json
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say

_COLUMNS = {".txt": "text", ".cls": "label", ".caption": "text"}
_WHOLE = "check that the file is whole, and that it is tar"


class WebDatasetSource(FileSource):
    """Tar files in which the files of a sample stand together and share their name: `0001.jpg`, `0001.txt`.

    Pictures and sounds are the columns `image` and `audio`, `.txt` is `text`, `.cls` is `label`, and each key of a
    `.json` is a column. Any other text is a column that is called as its ending. A row's line is the number of its
    sample, from 1.
    """

    kind: Literal["webdataset"] = "webdataset"
    endings: ClassVar[tuple[str, ...]] = (".tar",)

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """The mark of a tar, and a picture, a sound or a text among its first files."""
        if look.data[257:262] != b"ustar":
            return FormatMatch.NO
        known = MEDIA_ENDINGS | _COLUMNS.keys() | {".json"}
        try:
            with tarfile.open(fileobj=io.BytesIO(look.data), mode="r:") as packed:
                member = next((one for one in packed if one.isfile()), None)
        except tarfile.TarError:
            return FormatMatch.NO
        return FormatMatch.CERTAIN if member and _split(member.name)[1] in known else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every sample with its number; of what it holds, no file is larger than a picture or a sound may be."""
        number, name, values = 0, "", dict[str, Any]()
        problem: str | None = None
        try:
            with file.open() as opened, tarfile.open(fileobj=opened, mode="r|") as packed:
                for member in packed:
                    if not member.isfile():
                        continue
                    key, ending = _split(member.name)
                    if key != name and (values or problem):
                        number += 1
                        yield _row(values, problem, file, number, name)
                        values, problem = {}, None
                    name = key
                    problem = problem or _take(packed, member, ending, values)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"is not a tar that can be read: {error}", where=file.where, hint=_WHOLE) from error
        if values or problem:
            yield _row(values, problem, file, number + 1, name)
        elif not number:
            raise DataError("has no samples", where=file.where, hint="give a tar of files such as 0001.jpg, 0001.txt")


def _split(name: str) -> tuple[str, str]:
    """The key of a sample, which is its path up to the first dot of the name, and the ending in small letters."""
    path = PurePosixPath(name)
    stem, dot, ending = path.name.partition(".")
    return str(path.with_name(stem or path.name)), f"{dot}{ending}".lower()


def _row(
    values: dict[str, Any], problem: str | None, file: SourceFile, number: int, key: str
) -> SourceRecord | BrokenRow:
    if problem is not None:
        return BrokenRow(file.name, number, problem, key=f"key = {key}")
    return SourceRecord(values, file.name, number, f"key = {key}")


def _take(packed: tarfile.TarFile, member: tarfile.TarInfo, ending: str, values: dict[str, Any]) -> str | None:
    """Put one file of a sample into its columns, or say why that cannot be."""
    if member.size > MAX_BYTES:
        return f"{member.name} has {member.size} bytes, more than {MAX_BYTES}"
    content = packed.extractfile(member)
    assert content is not None
    data = content.read()
    if ending in MEDIA_ENDINGS:
        column = kind_of_media_path(PurePosixPath(f"file{ending}"))
        values[column] = {"bytes": base64.b64encode(data).decode(), "path": member.name}
        return None
    try:
        text = data.decode()
        value = parse_json(text) if ending == ".json" else text
    except ValueError as error:
        return f"{member.name}: {error}"
    if ending != ".json":
        values[_COLUMNS.get(ending, ending.removeprefix("."))] = text.strip()
        return None
    if not isinstance(value, dict):
        return f"{member.name}: expected a JSON object, got {json_type_name(value)}"
    values |= value
    return None
