"""Uploaded files: bytes in the store's folder `files`, rows in the ledger, each seen by its own key alone.

A file is written aside as it comes, in pieces, and gets its name and its row at the end: what a kill leaves is swept.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import xxhash

from luthier.commands.jobs.records import Purpose, Upload
from luthier.commands.jobs.rows import build_cursor_tuple, build_owner_condition, sort_key
from luthier.core.db import Ledger
from luthier.core.files import sync, translate_write_errors
from luthier.serve.openai.protocol import APIError, ModelUnavailableError

if TYPE_CHECKING:
    from sqlalchemy.sql import ColumnElement

    from luthier.core.db.tables.jobs import FileRow

FILE_BYTES = 512 << 20
"""The largest file, as OpenAI has it."""
KEY_BYTES = 20 << 30
"""Maximum bytes of one key's files."""
_SPARE_BYTES = 1 << 30
"""So much of the disk is left alone."""
_STALE_S = 3600.0


class UploadStore:
    """The files of a store."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger, self.folder = ledger, folder

    def path(self, file: str) -> Path:
        """Return the path of a file's bytes."""
        return self.folder / file

    @contextmanager
    def receiving(self, key: str | None, *, results: bool = False) -> Iterator[IncomingUpload]:
        """A place for a file that comes in pieces; what is not kept is removed. There is always room for `results`."""
        with translate_write_errors(self.folder):
            self.folder.mkdir(0o700, parents=True, exist_ok=True)  # keys do not see each other's; nor do accounts
        left = FILE_BYTES if results else min(FILE_BYTES, KEY_BYTES - self._used(key))
        path = self.folder / f"{secrets.token_hex(8)}.part"
        with path.open("wb") as file:
            incoming = IncomingUpload(self, key, file, left)
            try:
                yield incoming
            finally:
                path.unlink(missing_ok=True)

    def _used(self, key: str | None) -> int:
        from sqlalchemy import func, select

        from luthier.core.db.tables.jobs import FileRow

        with self._ledger.reading() as session:
            return int(
                session.scalar(
                    select(func.coalesce(func.sum(FileRow.bytes), 0)).where(build_owner_condition(FileRow, key))
                )
                or 0
            )

    def put(self, upload: Upload, source: Path) -> Upload:
        """Keep a file under its name; its row comes last."""
        from luthier.core.db.tables.jobs import FileRow

        with translate_write_errors(self.folder):
            source.replace(self.path(upload.id))
            sync(self.folder)
        with self._ledger.writing() as session:
            session.add(FileRow(**vars(upload)))
        return upload

    def get(self, key: str | None, file: str, param: str = "file") -> Upload:
        """Return one of a key's files; `APIError` (404) for any other."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import FileRow

        with self._ledger.reading() as session:
            file_row = session.scalar(
                select(FileRow).where(FileRow.id == file, build_owner_condition(FileRow, key), _lives())
            )
            if file_row is None:
                raise APIError(f"there is no file {file[:100]!r}", param=param, code="file_not_found", status=404)
            return _read(file_row)

    def listed(
        self, key: str | None, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> list[Upload]:
        """A key's files in order, those behind `after`."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import FileRow

        query = select(FileRow).where(build_owner_condition(FileRow, key), _lives())
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        if after is not None:
            last = self.get(key, after, "after")
            here, there = sort_key(FileRow), build_cursor_tuple(last.made_at, last.id)
            query = query.where(here < there if newest else here > there)
        order = (FileRow.made_at.desc(), FileRow.id.desc()) if newest else (FileRow.made_at, FileRow.id)
        with self._ledger.reading() as session:
            return [_read(row) for row in session.scalars(query.order_by(*order).limit(limit))]

    def delete(self, key: str | None, file: str) -> None:
        """Delete a file; jobs that use it keep their copy."""
        from sqlalchemy import delete

        from luthier.core.db.tables.jobs import FileRow

        self.get(key, file)
        with self._ledger.writing() as session:
            session.execute(delete(FileRow).where(FileRow.id == file))
        self.path(file).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what has expired, and what broken uploads left."""
        from sqlalchemy import delete, select

        from luthier.core.db.tables.jobs import FileRow

        over = FileRow.expires_at <= datetime.now(UTC)
        with self._ledger.writing() as session:
            gone = list(session.scalars(select(FileRow.id).where(over)))
            session.execute(delete(FileRow).where(FileRow.id.in_(gone)))
        for file in gone:
            self.path(file).unlink(missing_ok=True)
        for part in self.folder.glob("*.part"):
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink(missing_ok=True)


class IncomingUpload:
    """A file upload in progress."""

    def __init__(self, files: UploadStore, key: str | None, file: BinaryIO, most: int) -> None:
        self._files, self._key, self._file, self._most = files, key, file, most
        self._digest = xxhash.xxh3_128()
        self.bytes = 0

    @property
    def path(self) -> Path:
        """Its path while it is received."""
        return Path(self._file.name)

    def flush(self) -> None:
        """Flush the received bytes."""
        with translate_write_errors(self._files.folder):
            self._file.flush()

    def write(self, piece: bytes) -> None:
        """The next piece; `APIError` when it is too much."""
        self.bytes += len(piece)
        if self.bytes > self._most:
            room = f"a file has at most {FILE_BYTES >> 20} MiB, and a key's files {KEY_BYTES >> 30} GiB together"
            raise APIError(room, param="file", code="file_too_large", status=413)
        with translate_write_errors(self._files.folder):
            self._file.write(piece)
        self._digest.update(piece)

    def check_room(self) -> None:
        """`ModelUnavailableError` when the disk is nearly full."""
        if shutil.disk_usage(self._files.folder).free < _SPARE_BYTES:
            raise ModelUnavailableError("the server's disk is nearly full", status=507)

    def keep(self, filename: str, purpose: Purpose, expires_s: int | None = None) -> Upload:
        """Keep what came."""
        self.flush()
        now = datetime.now(UTC)
        upload = Upload(
            id=f"file-{secrets.token_hex(12)}",
            key=self._key,
            purpose=purpose,
            filename=filename,
            bytes=self.bytes,
            digest=self._digest.hexdigest(),
            made_at=now,
            expires_at=None if expires_s is None else now + timedelta(seconds=expires_s),
        )
        return self._files.put(upload, self.path)


def _lives() -> ColumnElement[bool]:
    from sqlalchemy import or_

    from luthier.core.db.tables.jobs import FileRow

    return or_(FileRow.expires_at.is_(None), FileRow.expires_at > datetime.now(UTC))


def _read(row: FileRow) -> Upload:
    return Upload(
        id=row.id,
        key=row.key,
        purpose=cast("Purpose", row.purpose),
        filename=row.filename,
        bytes=row.bytes,
        digest=row.digest,
        made_at=row.made_at,
        expires_at=row.expires_at,
    )
