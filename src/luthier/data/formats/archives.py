"""Packed files: gzip, bz2, xz, zstd, or one member of a zip; unpacked as they are read, and never a bomb."""

from __future__ import annotations

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from luthier.core.errors import DataError, SourceLocation
from luthier.core.system.packages import MEMBER_LIMIT_BYTES, RATIO_FREE_BYTES, RATIO_LIMIT

ENDINGS = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})
_MARKS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_UNZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError)
"""What opening a damaged zip raises; `NotImplementedError` for a version that is none."""
_FAULTS = (EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError)
"""What reading a damaged archive raises; bz2 also raises `OSError`."""
_TRUST = "if you trust it, unpack it yourself and name the file that comes out"
_WHOLE = "check that the file is whole; fetch or pack it again"


def detect_compression(file: BinaryIO) -> str:
    """How a file is packed, from its first bytes; nothing for plain files and for documents that are zips inside."""
    start = file.read(8)
    file.seek(0)
    found = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "")
    if found != "zip":
        return found
    try:
        names = member_names(file)
    except _UNZIP_FAULTS:
        return "zip"
    file.seek(0)
    return "zip" if len([name for name in names if not _aside(name)]) == 1 else ""


def member_names(file: BinaryIO) -> list[str]:
    """The files inside a zip, in its order."""
    with zipfile.ZipFile(file) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def list_data_members(file: BinaryIO, name: str) -> dict[str, int]:
    """The files inside a zip with their sizes, in order of their names, without what packers leave beside the data."""
    with open_zip_archive(file, name) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir() and not _aside(info.filename)]
    return {info.filename: info.file_size for info in sorted(infos, key=lambda info: info.filename)}


def _aside(name: str) -> bool:
    """What packers leave beside the data."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".")


@contextmanager
def open_unpacked(file: BinaryIO, how: str, name: str, member: str = "") -> Iterator[BinaryIO]:
    """The content of a packed file, as a stream; of a zip that of one member, named where there are several."""
    if how == "zip":
        with _member(file, name, member) as (inner, size):
            yield _guarded(inner, lambda: size, name)
        return
    inner = _OPENERS[how](file)
    try:
        yield _guarded(inner, file.tell, name)
    finally:
        inner.close()


def _gzip(file: BinaryIO) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=file)


def _bz2(file: BinaryIO) -> Any:
    import bz2

    return bz2.BZ2File(file)


def _xz(file: BinaryIO) -> Any:
    return lzma.LZMAFile(file)


def _zstd(file: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_OPENERS = {"gzip": _gzip, "bz2": _bz2, "xz": _xz, "zstd": _zstd}


@contextmanager
def _member(file: BinaryIO, name: str, member_name: str) -> Iterator[tuple[Any, int]]:
    with open_zip_archive(file, name) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir() and not _aside(info.filename)]
        infos = [info for info in infos if info.filename == member_name] if member_name else infos
        if len(infos) != 1:
            raise DataError(f"holds {len(infos)} files, not one", where=SourceLocation(file=name), hint=_WHOLE)
        with open_zip_member(opened, infos[0], name) as inner:
            yield inner, infos[0].compress_size


@contextmanager
def open_zip_archive(file: BinaryIO, name: str) -> Iterator[zipfile.ZipFile]:
    """An open zip; a file that is none is a `DataError`."""
    try:
        opened = zipfile.ZipFile(file)
    except _UNZIP_FAULTS as error:
        raise DataError("is not a whole zip archive", where=SourceLocation(file=name), hint=_WHOLE) from error
    with opened:
        yield opened


@contextmanager
def open_zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Iterator[BinaryIO]:
    """One file of a zip; links, names that climb out, locked and oversized members are refused."""
    where = SourceLocation(file=name, field=info.filename)
    parts = PurePosixPath(info.filename).parts
    if ".." in parts or info.filename.startswith(("/", "\\")) or "\\" in info.filename:
        raise DataError("the name of a member leads out of the archive", where=where, hint=_TRUST)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError("a member is a link, not a file", where=where, hint="pack the file itself")
    if info.flag_bits & 1:
        raise DataError("is locked with a password", where=where, hint="unpack it yourself, and name the file")
    refuse_zip_bomb(info.file_size, info.compress_size, where)
    try:
        inner = opened.open(info)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"cannot be unpacked: {error}", where=where, hint=_WHOLE) from error
    with inner:
        try:
            yield cast(BinaryIO, inner)
        except _FAULTS as error:
            raise _damaged(error, where) from error


def _damaged(error: Exception, where: SourceLocation) -> DataError:
    problem = f"cannot be unpacked to its end: {str(error) or type(error).__name__}"
    return DataError(problem, where=where, hint=_WHOLE)


def refuse_zip_bomb(out: int, packed: int, where: SourceLocation, hint: str = _TRUST) -> None:
    """Refuse what unpacks to many times its size."""
    if out > MEMBER_LIMIT_BYTES or out > max(RATIO_FREE_BYTES, RATIO_LIMIT * packed):
        raise DataError(f"is refused as a zip bomb: {packed} bytes become {out} or more", where=where, hint=hint)


def refuse_oversized_document(file: BinaryIO, most_bytes: int, name: str) -> None:
    """Refuse a document that is a zip inside when its parts would not fit the memory it may take."""
    with open_zip_archive(file, name) as opened:
        for info in opened.infolist():
            refuse_zip_bomb(info.file_size, info.compress_size, SourceLocation(file=name, field=info.filename))
        total = sum(info.file_size for info in opened.infolist())
    if total > most_bytes:
        problem = f"would take {total >> 20} MiB of memory; at most {most_bytes >> 20} are given to one document"
        raise DataError(
            problem, where=SourceLocation(file=name), hint="save it in parts, or its rows as CSV or Parquet"
        )
    file.seek(0)


def _guarded(inner: Any, taken: Any, name: str) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Guarded(inner, taken, name), 1 << 18))


class _Guarded(io.RawIOBase):
    """What comes out of an unpacker, counted against what went in."""

    def __init__(self, inner: Any, taken: Any, name: str) -> None:
        self._inner = inner
        self._taken = taken
        self._where = SourceLocation(file=name)
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (OSError, *_FAULTS) as error:
            raise _damaged(error, self._where) from error
        self._out += len(data)
        refuse_zip_bomb(self._out, self._taken(), self._where)
        buffer[: len(data)] = data
        return len(data)
