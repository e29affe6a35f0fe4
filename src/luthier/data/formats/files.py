"""Open a file by its kind: local or behind a URL, compressed or not.

Errors name the file as the recipe does. Text files that hold chats, subtitles or mails are read as prose unless the
recipe says otherwise.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import xxhash

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.hashing import digest_of, file_digest
from luthier.core.remote_store import RemoteErrorTranslator
from luthier.data.formats import archives

_CHUNK = 1 << 20
_CONTENT_MARKS = ("ETag", "etag", "md5Hash", "md5", "content_md5", "Content-MD5", "crc32c")
"""What file systems call a digest of a file's content."""
MOST_INSIDE = 1000
"""A zip of more files is not read as it is: the list of what it holds is read anew for each of them."""
_PACKED_RATIO = 4
"""So many times its size becomes of a packed file of text, for forecasts."""


@dataclass(frozen=True)
class SourceFile:
    """A file and how it is named in errors; what is read of it is unpacked already."""

    path: Path
    """Where it lies; for a file behind a URL, its path there."""
    name: str
    url: str = ""
    member: str = ""
    """Which file it is inside of the zip that lies there, when that holds several."""

    @property
    def where(self) -> SourceLocation:
        """Its place, for errors."""
        return SourceLocation(file=self.name)

    @cached_property
    def packing(self) -> str:
        """How it is packed (`gzip`, `bz2`, `xz`, `zstd`, `zip`), or nothing, as its first bytes say."""
        if self.member:
            return "zip"
        with self.raw() as file:
            return archives.detect_compression(file)

    @property
    def ending(self) -> str:
        """The ending of its name in small letters, without that of its packing: `.csv` for `Rows.CSV.gz`."""
        name = PurePosixPath((self.member or self.path.name).lower())
        return PurePosixPath(name.stem).suffix if name.suffix in archives.ENDINGS else name.suffix

    def raw(self) -> BinaryIO:
        """Its bytes as they stand."""
        return self._far() if self.url else open_local_file(self.path, self.name)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its bytes, unpacked as they are read; a bomb or a damaged file is a `DataError`."""
        how = self.packing
        with self.raw() as file:
            if not how:
                yield file
                return
            with archives.open_unpacked(file, how, self.name, self.member) as content:
                yield content

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A path on this machine with the unpacked bytes; a copy that goes again where it does not lie so."""
        if not self.url and not self.packing:
            open_local_file(self.path, self.name).close()
            yield self.path
            return
        with tempfile.NamedTemporaryFile(prefix="luthier-", suffix=self.ending) as copy:
            with self.open() as content, translate_write_errors(Path(copy.name)):
                shutil.copyfileobj(content, copy, _CHUNK)
                copy.flush()
            yield Path(copy.name)

    def exists(self) -> bool:
        """Whether there is such a file."""
        if not self.url:
            return self.path.is_file()
        with RemoteErrorTranslator(self.name):
            files, path = _reach(self.url)
            return bool(files.isfile(path))

    def inside(self) -> list[SourceFile]:
        """The files of a zip that holds several of them; of any other file, none.

        A document that is a zip inside (a workbook) is known by its name, which does not end in `.zip`.
        """
        if self.member or not self.path.name.lower().endswith(".zip") or self.packing:
            return []
        with self.raw() as file:
            names = archives.list_data_members(file, self.name)
        if len(names) > MOST_INSIDE:
            hint = "unpack it, and name the folder"
            raise DataError(f"holds {len(names)} files, more than {MOST_INSIDE}", where=self.where, hint=hint)
        return [replace(self, name=f"{self.name}/{member}", member=member) for member in names]

    def size(self) -> int:
        """About how many bytes there are to read."""
        if self.member:
            with self.raw() as file:
                return archives.list_data_members(file, self.name)[self.member]
        size = int(self._info["size"] or 0) if self.url else self.path.stat().st_size
        return size * _PACKED_RATIO if self.packing else size

    def fingerprint(self) -> str:
        """A digest of its bytes, or of the digest that the place behind the URL keeps of them."""
        if not self.url and not self.member:
            return file_digest(self.path)
        mark = next((self._info[name] for name in _CONTENT_MARKS if self._info.get(name)), None) if self.url else None
        if mark is not None:
            return digest_of([str(mark), self._info["size"], *[self.member] * bool(self.member)])
        state = xxhash.xxh3_128()
        with self.open() if self.member else self.raw() as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
        return state.hexdigest()

    @cached_property
    def _info(self) -> dict[str, Any]:
        with RemoteErrorTranslator(self.name):
            files, path = _reach(self.url)
            return dict(files.info(path))

    def _far(self) -> BinaryIO:
        with RemoteErrorTranslator(self.name):
            files, path = _reach(self.url)
            return cast(BinaryIO, io.BufferedReader(_Far(files.open(path, "rb"), self.name), _CHUNK))


class _Far(io.RawIOBase):
    """A file behind a URL whose faults are said with its name."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner = inner
        self._reach = RemoteErrorTranslator(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def readinto(self, buffer: Any) -> int:
        with self._reach:
            data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._reach:
            return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _reach(url: str) -> tuple[Any, str]:
    from fsspec import url_to_fs

    files, path = url_to_fs(url)
    return files, str(path)


def list_remote_files(url: str, shown: str) -> list[SourceFile]:
    """The files that a URL means: one, those that fit its `*`, or all below it, in order of their names."""
    with RemoteErrorTranslator(shown):
        files, url_path = _reach(url)
        protocol = url.partition("://")[0]
        if "*" in url_path and not protocol.startswith("http"):
            found = [path for path in files.glob(url_path) if files.isfile(path)]
        elif not protocol.startswith("http") and files.isdir(url_path):
            found = list(files.find(url_path))
        else:
            return [SourceFile(Path(url_path.partition("?")[0]), shown, url)]
        folder = url_path.partition("*")[0].rpartition("/")[0] if "*" in url_path else url_path.rstrip("/")
        return [_behind(files, str(path), folder, shown) for path in sorted(found) if not _hidden(str(path), folder)]


def _behind(files: Any, path: str, folder: str, shown: str) -> SourceFile:
    beginning = shown.partition("*")[0].rpartition("/")[0] if "*" in shown else shown.rstrip("/")
    return SourceFile(Path(path), f"{beginning}/{path.removeprefix(folder).lstrip('/')}", files.unstrip_protocol(path))


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith(".") for part in path.removeprefix(folder).split("/"))


def open_local_file(path: Path, name: str) -> BinaryIO:
    """Open a file of this machine for reading bytes; a `DataError` names it as the recipe does."""
    where = SourceLocation(file=name)
    try:
        if path.is_dir():
            hint = "name one file, or use the source `folder` to read all files of a folder"
            raise DataError("is a folder, not a file", where=where, hint=hint)
        if path.exists() and not path.is_file():
            raise DataError("is a pipe or a device, not a file", where=where, hint="save its rows as a file first")
        return path.open("rb")
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=where, hint=_no_file_remedy(path, name)) from error
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        hint = "check `path`, and give yourself the right to read it"
        raise DataError(f"cannot be read: {what}", where=where, hint=hint) from error


def _no_file_remedy(path: Path, name: str) -> str:
    if near := _near(path):
        return f"did you mean {near!r}?"
    if "$" in name:
        return "check the path and what the environment variable in it says"
    return "check `path`; relative paths start at the recipe's folder"


def _near(path: Path) -> str | None:
    from difflib import get_close_matches

    try:
        names = [found.name for found in path.parent.iterdir() if found.is_file()]
    except OSError:
        return None
    return next(iter(get_close_matches(path.name, names, n=1, cutoff=0.6)), None)


_LOOKED_AT = 200
"""So many first lines tell."""
_LINE_CHARS = 200
_FEWEST = 3
_SAID = re.compile(
    r"\[?\d{1,4}[./-]\d{1,2}[./-]\d{2,4},? \d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\.?)?(?:\] | - )"
    r"[^:]{1,60}: "
)
_SHOWN = re.compile(r"(?:\d{1,2}:)?\d{2}:\d{2}[.,]\d{3} --> ")
_HEADER = re.compile(r"([A-Za-z][A-Za-z-]{1,40}):")
_MAIL = frozenset(["from", "to", "subject", "date", "message-id", "received", "mime-version"])
MAILBOX = (
    "python -c \"import glob, mailbox; box = mailbox.mbox('mails.mbox'); "
    "[box.add(open(name, 'rb')) for name in sorted(glob.glob('*.eml'))]; box.close()\""
)
"""What makes a mailbox of mails that are a file each."""


def describe_text_content(text: str) -> str:
    """What a text looks like that begins so, how it is read, and what to do; empty for plain prose."""
    lines = [line[:_LINE_CHARS].strip("\ufeff\u200e\u200f \t\r") for line in text.split("\n", _LOOKED_AT)[:_LOOKED_AT]]
    filled = [line for line in lines if line]
    if _many(_SAID, filled, 3):
        return (
            "looks like a chat given out by WhatsApp or its like, and is read as plain text to continue, times and "
            "names too; for conversations, write a CSV with the columns conversation_id, sender (customer or agent), "
            "content and sent_at, a message a row"
        )
    if _many(_SHOWN, filled, 6) or (filled and filled[0].startswith("WEBVTT")):
        return (
            "looks like subtitles, and is read as plain text to continue, numbers and times too; to learn only what "
            r"is said: grep -vE '^WEBVTT|^[0-9]+\s*$|-->' FILE > said.txt"
        )
    if _is_mail(lines):
        return (
            "looks like a mail, and is read as plain text to continue, headers too; for conversations, make a mailbox "
            f"of all mails, whose threads are read: {MAILBOX}"
        )
    return ""


def _many(pattern: re.Pattern[str], lines: list[str], one_in: int) -> bool:
    """Whether at least three lines, and one in so many, begin so."""
    found = sum(pattern.match(line) is not None for line in lines)
    return found >= _FEWEST and found * one_in >= len(lines)


def _is_mail(lines: list[str]) -> bool:
    """Whether headers of a mail stand at the start, as nothing but a mail has them together."""
    names: set[str] = set()
    for line in lines:
        if not line:
            break
        if match := _HEADER.match(line):
            names.add(match[1].lower())
    return "from" in names and len(names & _MAIL) >= _FEWEST
