"""The pictures and sounds of a source's rows: read as rows are, and written once for the rows that are left."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.artifacts.media import MEDIA_FOLDER, MediaWriter, read_media_files
from luthier.chat.media_codec import keep_media
from luthier.chat.media_metadata import list_metadata
from luthier.chat.messages import Media
from luthier.core.errors import DataError, MissingExtra
from luthier.core.files import translate_write_errors
from luthier.data.columns.mapping import MappedRecord
from luthier.data.columns.media import parse_page_address, place_media
from luthier.data.engine.columns import to_arrow_mask
from luthier.data.formats.media_files import MediaFolder
from luthier.data.formats.pdf_pages import is_pdf, render_pdf_pages
from luthier.data.formats.video import read_film_frames, sniff_film_format
from luthier.data.media.operator import MediaOperator
from luthier.data.media.scratch import MediaScratch
from luthier.data.row import MESSAGES, BrokenRow, UnusableRowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.engine.spill import Spill
    from luthier.data.source import Source

_REMEMBERED = 10_000
"""Addresses whose medium is not read again."""
_LONG = 1_000
"""An address of more characters is the content itself."""


class MediaIntake:
    """Reads what rows show and play, and keeps the bytes aside until it is known which rows are left."""

    def __init__(self, source: Source, recipe_dir: Path, scratch: Path | None = None) -> None:
        self._source = source
        self._recipe_dir = recipe_dir
        fetched = source.fetched_media(recipe_dir)
        self._folder = MediaFolder(source.media_root, recipe_dir, None if fetched is None else fetched.read)
        self._strict = source.media_root is not None or bool(source.media_columns)
        self._known: OrderedDict[tuple[str, str], tuple[Media, ...]] = OrderedDict()
        self._scratch = scratch
        self._writer: MediaWriter | None = None
        self._shared: MediaScratch | None = None
        self.metadata: dict[str, Counter[str]] = {}
        """Media whose file carried metadata, which are not kept: by what they were, and kind of medium."""
        if source.media == "read":
            self._folder.check()

    def take(self, parts: MappedRecord) -> MappedRecord:
        """A row whose turns hold what its columns lead to; `UnusableRowError` for what cannot be read."""
        if self._source.media != "read":
            return parts
        placed = place_media(parts.messages, parts.meta, self._read, strict=self._strict)
        return parts._replace(messages=placed.messages, meta=placed.meta)

    def share(self) -> MediaScratch:
        """A folder in which each medium is put down as it is read, for operators that look at media."""
        with translate_write_errors(self._scratch or tempfile.gettempdir()):
            folder = Path(tempfile.mkdtemp(dir=self._scratch, prefix="luthier.shared_media."))
        self._shared = MediaScratch(folder)
        return self._shared

    def write(
        self, folder: Path, spill: Spill, keep: NDArray[np.bool_], operators: Sequence[MediaOperator] = ()
    ) -> None:
        """Write the media of the rows that are left below the folder of the data set: those of the source in its order,
        then those that operators put in the place of others, by digest.

        Where the rows themselves were taken over from an earlier run, their media are read again, and `operators` make
        of them what they made then.
        """
        expected = dict(_expected_media(spill, keep))
        if not expected:
            return
        if self._writer is None or (operators and not self._has_all(expected)):
            self.read_again(operators)
        assert self._writer is not None
        self._writer.close()
        with translate_write_errors(folder), MediaWriter(folder) as writer:
            for path in sorted((self._aside / MEDIA_FOLDER).iterdir()):
                for media, content in read_media_files(path):
                    if expected.pop(bytes.fromhex(media.digest), None) is not None:
                        writer.add(media, content)
            for digest in sorted(expected):
                if self._shared is not None and digest.hex() in self._shared:
                    writer.add(expected.pop(digest), self._shared.read(digest.hex()))
        if expected:
            hint = "run again when nothing writes into the folder of media"
            raise DataError(f"the media of {len(expected)} rows changed while they were read", hint=hint)

    def close(self) -> None:
        """Delete what lies aside."""
        if self._writer is not None:
            self._writer.close()
            shutil.rmtree(self._aside, ignore_errors=True)
        if self._shared is not None:
            shutil.rmtree(self._shared.folder, ignore_errors=True)

    def read_again(self, operators: Sequence[MediaOperator]) -> None:
        """Read all media once more, and let operators make of each what they make of it."""
        known_digests = set[str]()
        metadata, self.metadata = self.metadata, {}
        for found in self._source.mapped(self._recipe_dir, lambda text: None):
            if not isinstance(found, BrokenRow):
                with suppress(UnusableRowError):  # it was left out before, too
                    parts = self.take(found[1])
                    for media in (media for message in parts.messages for media in message.media):
                        if media.digest not in known_digests:
                            known_digests.add(media.digest)
                            for operator in operators:
                                media = operator.replace(media)  # noqa: PLW2901  # the next one sees what it made
        self.metadata = metadata or self.metadata

    def _has_all(self, expected: Mapping[bytes, Media]) -> bool:
        """Whether the bytes of all media were read or made in this run."""
        assert self._shared is not None
        return all(digest.hex() in self._shared for digest in expected)

    def _read(self, kind: str, address: str) -> tuple[Media, ...]:
        key = (kind, address)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        try:
            contents = self._read_contents(kind, address)
            found = [keep_media(content) for content in contents]
        except MissingExtra:
            raise
        except DataError as error:
            shown = "" if len(address) > _LONG or repr(address) in error.message else f"{address}: "
            raise UnusableRowError(f"{shown}{error.message}", f"{kind}s", error.hint) from error
        if kind != "video" and found[0].media.kind != kind:
            words = {"image": "a picture", "audio": "a sound"}
            what = f"is {words[found[0].media.kind]}, and {words[kind]} is wanted"
            raise UnusableRowError(f"{address[:80]!r} {what}", f"{kind}s", "mend the mark or the address")
        if self._writer is None:
            self._writer = MediaWriter(self._aside)
        with translate_write_errors(self._aside):
            for kept in found:
                self._writer.add(kept.media, kept.content)
                if self._shared is not None:
                    self._shared.write(kept)
        for name in dict.fromkeys(name for content in contents for name in list_metadata(content)):
            self.metadata.setdefault(name, Counter())[found[0].media.kind] += 1
        media = tuple(kept.media for kept in found)
        if len(address) <= _LONG:
            self._known[key] = media
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return media

    def _read_contents(self, kind: str, address: str) -> list[bytes]:
        """The bytes at an address: one picture or sound, or the pictures that a film or a PDF is."""
        file, page = parse_page_address(address)
        content = self._folder.read(file)
        if kind == "video":
            return read_film_frames(content, self._source.video)
        if kind == "image" and is_pdf(content):
            return render_pdf_pages(content, self._source.pdf, page)
        if sniff_film_format(content) is not None:
            word = {"image": "a picture", "audio": "a sound"}[kind]
            hint = "name it in a column `video`, or by `media_columns: {COLUMN: video}`"
            raise DataError(f"is a film, and {word} is wanted", hint=hint)
        return [content]

    @cached_property
    def _aside(self) -> Path:
        """A folder for the media until it is known which rows are left."""
        with translate_write_errors(self._scratch or tempfile.gettempdir()):
            return Path(tempfile.mkdtemp(dir=self._scratch, prefix="luthier.media."))


def _expected_media(spill: Spill, keep: NDArray[np.bool_]) -> Iterator[tuple[bytes, Media]]:
    """The media of rows that are wanted, by digest."""
    at = 0
    for table in spill.batches():
        mine = keep[at : at + table.num_rows]
        at += table.num_rows
        for text in table.column("messages").filter(to_arrow_mask(mine)).to_pylist():
            if '"media"' in text:
                for message in MESSAGES.validate_json(text):
                    yield from ((bytes.fromhex(media.digest), media) for media in message.media)
