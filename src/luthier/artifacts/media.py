"""The pictures and sounds of a data set: `media/*.parquet`, where the bytes of each stand once under their digest.

A set made of another one keeps no bytes of its own: they are found by lineage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from luthier.artifacts.dataset import list_source_datasets, list_splits
from luthier.chat.messages import Media
from luthier.core.artifact import MAKE_ANEW, Artifact
from luthier.core.errors import CorruptArtifact, DataError, SourceLocation

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile, ParquetWriter

MEDIA_FOLDER = "media"
PART_BYTES: Final = 64 << 20
"""Bytes of the media of one file, but for one medium that is larger by itself."""
_GROUP_BYTES: Final = 1 << 20
"""Bytes of the media that are read at once when one of them is wanted."""
_HELD_BYTES: Final = 32 << 20
"""Bytes that a reader holds of what it read last."""


def media_schema() -> pa.Schema:
    """The columns of `media/*.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [("digest", pa.string()), ("kind", pa.string()), ("format", pa.string()), ("bytes", pa.large_binary())]
    )


class MediaWriter:
    """Writes the media of a data set below its folder, each digest once, in the order in which they are added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / MEDIA_FOLDER
        self._digests = set[bytes]()
        self._rows: list[tuple[str, str, str, bytes]] = []
        self._waiting = 0
        self._written = 0
        self._parts = 0
        self._file: ParquetWriter | None = None

    def __enter__(self) -> MediaWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, digest: str) -> bool:
        """Whether a medium was added."""
        return bytes.fromhex(digest) in self._digests

    def add(self, media: Media, content: bytes) -> None:
        """Keep the bytes of a medium, unless they are kept already."""
        key = bytes.fromhex(media.digest)
        if key in self._digests:
            return
        self._digests.add(key)
        if self._written + self._waiting + len(content) > PART_BYTES:
            self._end_part()
        self._rows.append((media.digest, media.kind, media.format, content))
        self._waiting += len(content)
        if self._waiting >= _GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """Write what waits."""
        self._end_part()

    def _write_group(self) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        if not self._rows:
            return
        schema = media_schema()
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._parts:05}.parquet"
            self._file = ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False)
            self._parts += 1
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*self._rows, strict=True), schema, strict=True)
        ]
        self._file.write_table(pa.table(columns, schema=schema))
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def _end_part(self) -> None:
        self._write_group()
        if self._file is not None:
            self._file.close()
        self._file, self._written = None, 0


class _Index(NamedTuple):
    """Where the media of a data set stand: digests in order, and file, row group and row of each."""

    paths: list[Path]
    digests: np.ndarray[Any, Any]
    indices: np.ndarray[Any, Any]

    def find(self, digest: bytes) -> tuple[int, int, int] | None:
        import numpy as np

        key = np.array(digest, "S32")
        at = int(np.searchsorted(self.digests, key))
        if at >= len(self.digests) or self.digests[at] != key:
            return None
        file, group, row = self.indices[at]
        return int(file), int(group), int(row)


class MediaReader:
    """Finds the bytes of pictures and sounds by digest: in a data set, else in those that it was made from.

    44 bytes a medium are held, and the last 32 MiB that were read. Threads may read at once.
    """

    def __init__(self, dataset: Artifact) -> None:
        self._dataset = dataset
        self._lock = RLock()
        self._files: dict[Path, ParquetFile] = {}
        self._held: dict[tuple[Path, int], list[bytes]] = {}
        self._held_bytes = 0

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._held.clear()
        self._held_bytes = 0

    def __contains__(self, digest: str) -> bool:
        """Whether a set holds the bytes of a medium."""
        key = bytes.fromhex(digest)
        return any(index.find(key) is not None for index in self._indices)

    def read(self, digest: str) -> bytes:
        """The bytes of a medium; `DataError` names a digest that no set holds."""
        key = bytes.fromhex(digest)
        with self._lock:
            for index in self._indices:
                if (location := index.find(key)) is not None:
                    file, group, row = location
                    return self._read_group(index.paths[file], group)[row]
        what = f"no data set that this one was made from holds the picture or sound {digest}"
        hint = "run the recipe that prepared them again; `luthier store verify` names what is missing"
        raise DataError(f"data set {self._dataset.digest[:12]}: {what}", hint=hint)

    @cached_property
    def _indices(self) -> list[_Index]:
        return [index for one in list_source_datasets(self._dataset) if (index := _index_of(one)) is not None]

    def _read_group(self, path: Path, group: int) -> list[bytes]:
        key = (path, group)
        if key in self._held:
            self._held[key] = self._held.pop(key)  # the last one read goes last
            return self._held[key]
        values: list[bytes] = self._open(path).read_row_group(group, columns=["bytes"]).column(0).to_pylist()
        self._held[key] = values
        self._held_bytes += sum(map(len, values))
        while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= sum(map(len, self._held.pop(next(iter(self._held)))))
        return values

    def _open(self, path: Path) -> ParquetFile:
        if path not in self._files:
            self._files[path] = _open_part(path)
        return self._files[path]


class MediaCounts(NamedTuple):
    """How many distinct pictures and sounds the rows of a data set hold, and how many bytes it keeps itself."""

    pictures: int
    sounds: int
    own_bytes: int

    def describe(self) -> str:
        """In a few words."""
        found = [
            f"{count:,} {word}{'s' * (count != 1)}"
            for count, word in ((self.pictures, "picture"), (self.sounds, "sound"))
            if count
        ]
        kept = f"{self.own_bytes / 1e6:,.1f} MB kept here" if self.own_bytes else "kept in a set that it was made from"
        return f"{' and '.join(found)}, {kept}"


def count_row_media(dataset: Artifact) -> MediaCounts | None:
    """What the rows of a data set show and play; None where they hold text alone."""
    kinds = [*_list_row_media(dataset).values()]
    prefix = f"{MEDIA_FOLDER}/"
    own_bytes = sum(entry.size for entry in dataset.manifest.files if entry.path.startswith(prefix))
    return MediaCounts(kinds.count("image"), kinds.count("audio"), own_bytes) if kinds else None


def list_missing_media(dataset: Artifact) -> list[str]:
    """The digests of media that rows of a data set hold and that neither it nor a set that it was made from keeps."""
    rows = _list_row_media(dataset)
    if not rows:
        return []
    with MediaReader(dataset) as reader:
        return sorted(digest for digest in rows if digest not in reader)


def _list_row_media(dataset: Artifact) -> dict[str, str]:
    """The kind of each medium in the rows of a data set, by digest."""
    import polars as pl

    found: dict[str, str] = {}
    for split in list_splits(dataset):
        frame = pl.scan_parquet(dataset.path(f"examples/{split}.parquet")).select("messages")
        texts = frame.filter(pl.col("messages").str.contains('"media":[{"kind":', literal=True))
        names = texts.select(pl.col("messages").str.extract_all(_MEDIUM).explode().unique()).collect()
        for text in names["messages"].drop_nulls():
            kind, digest = _MEDIUM_PARTS.findall(text)[0]
            found[digest] = kind
    return found


_MEDIUM = r'''\{"kind":"(?:image|audio)","digest":"[0-9a-f]{64}"'''
"""The beginning of a medium in a row's messages; in what somebody typed, quotes have a backslash."""
_MEDIUM_PARTS = re.compile(r'''"kind":"(image|audio)","digest":"([0-9a-f]{64})"''')


def read_media_files(path: Path) -> Iterator[tuple[Media, bytes]]:
    """The media of one file with their bytes, in order; of each medium kind, digest, format and size are known."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for group in range(file.metadata.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                content: bytes = row.pop("bytes")
                yield Media(**row, size=len(content)), content


def list_media_files(dataset: Artifact) -> list[Path]:
    """The files of a data set's own media, in order."""
    prefix = f"{MEDIA_FOLDER}/"
    names = sorted(entry.path for entry in dataset.manifest.files if entry.path.startswith(prefix))
    return [dataset.path(name) for name in names]


def _index_of(dataset: Artifact) -> _Index | None:
    """Where a data set's own media stand; None when it has none."""
    import numpy as np

    paths = list_media_files(dataset)
    if not paths:
        return None
    digests, indices = bytearray(), []
    for number, path in enumerate(paths):
        for group, names in enumerate(_digests_by_group(path)):
            for row, name in enumerate(names):
                digests += bytes.fromhex(name)
                indices.append((number, group, row))
    keys = np.frombuffer(bytes(digests), "S32")
    order = np.argsort(keys, kind="stable")
    return _Index(paths, keys[order], np.asarray(indices, np.int32)[order])


def _digests_by_group(path: Path) -> Iterator[list[str]]:
    with _open_part(path) as file:
        for group in range(file.metadata.num_row_groups):
            yield file.read_row_group(group, columns=["digest"]).column(0).to_pylist()


def _open_part(path: Path) -> ParquetFile:
    """One file of media; `CorruptArtifact` for what is none any more."""
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        what = f"the pictures and sounds cannot be read: {error}"
        raise CorruptArtifact(what, where=SourceLocation(file=str(path)), hint=MAKE_ANEW) from error
