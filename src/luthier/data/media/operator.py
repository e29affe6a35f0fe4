"""Operators that look at the pictures or sounds of rows, and may put other ones in their place."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import PrivateAttr

from luthier.chat.media_codec import KeptMedia
from luthier.chat.messages import Media
from luthier.core.component import digest_plugin_code, iter_components
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision
from luthier.data.media.scratch import MediaScratch
from luthier.data.operator import Drop, MediaEdit, OperatorResult, RowOperator
from luthier.data.pii.findings_cache import FindingsFile
from luthier.data.row import Row
from luthier.pii.hmac_key import HmacKey

_REMEMBERED = 4096
"""So many media are not looked at again in one process."""


class MediaFinding(NamedTuple):
    """Something found in a picture or a sound, and where."""

    kind: str
    """Such as `email` or `face`."""
    position: tuple[float, ...]
    """Of a picture: left, top, right and bottom in pixels; of a sound: begin and end in seconds."""


class MediaOperator(RowOperator):
    """An operator that sees each picture or sound of a row; what it makes of one depends on nothing but its bytes."""

    medium: ClassVar[Literal["image", "audio"]]
    """Which media it looks at."""

    _scratch: MediaScratch | None = PrivateAttr(default=None)
    _kept: Path | None = PrivateAttr(default=None)
    _recipe_dir: Path = PrivateAttr(default=Path())

    @abstractmethod
    def find(self, content: bytes) -> list[MediaFinding]:
        """What is found in one medium."""

    @abstractmethod
    def redact(self, content: bytes, findings: Sequence[MediaFinding]) -> KeptMedia:
        """The medium without what was found."""

    @property
    @abstractmethod
    def outcome(self) -> Literal["redact", "drop", "flag"]:
        """What becomes of a medium in which something was found."""

    def at(self, recipe_dir: Path, kept: Path | None = None) -> Self:
        """The operator as it remembers what it found in media; texts and values are never kept, only kinds and
        places."""
        placed = self.model_copy()
        placed._kept, placed._recipe_dir = kept, recipe_dir
        return placed

    def with_scratch(self, scratch: MediaScratch | None) -> Self:
        """The operator as it finds the bytes of media, and puts down those that it makes."""
        placed = self.model_copy()
        placed._scratch = scratch
        return placed

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Look at each medium, count what is found, and say what becomes of it."""
        counts = [0] * len(rows)
        by_kind: Counter[str] = Counter()
        result = OperatorResult(attributes={"found": counts})
        for index, row in enumerate(rows):
            kinds: list[str] = []
            for turn, position, media in _list_media(row, self.medium):
                findings = self.look_at(media)
                counts[index] += len(findings)
                kinds += [finding.kind for finding in findings]
                if findings and self.outcome == "redact":
                    after = self.replace(media)
                    reason = ", ".join(dict.fromkeys(finding.kind for finding in findings))
                    result.media.setdefault(index, []).append(MediaEdit(turn, position, media.digest, after, reason))
            by_kind.update(kinds)
            if kinds and self.outcome == "drop":
                names = {"image": "picture", "audio": "sound"}
                result.drops[index] = Drop(f"a {names[self.medium]} holds {min(kinds)}")
        result.counts.update({kind: {self.medium: count} for kind, count in sorted(by_kind.items())})
        return result

    def look_at(self, media: Media) -> list[MediaFinding]:
        """What is found in a medium; what was found in these bytes before, in this run or an earlier one, is known."""
        if media.digest in self._known:
            return self._known[media.digest]
        key = self._key.digest(media.digest)[:16] if self._file else b""
        held = self._file.read([key]).get(key) if self._file else None
        if held is None:
            assert self._scratch is not None, "media are read before operators look at them"
            found = self.find(self._scratch.read(media.digest))
            if self._file:
                self._file.write({key: json.dumps(found)})
        else:
            found = [MediaFinding(kind, tuple(position)) for kind, position in json.loads(held)]
        if len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[media.digest] = found
        return found

    def replace(self, media: Media) -> Media:
        """What stands in a medium's place: itself where nothing is to be taken out of it; its bytes are put down."""
        findings = self.look_at(media) if media.kind == self.medium and self.outcome == "redact" else []
        if not findings:
            return media
        if media.digest not in self._made:
            assert self._scratch is not None, "media are read before operators change them"
            kept = self.redact(self._scratch.read(media.digest), findings)
            self._scratch.write(kept)
            if len(self._made) >= _REMEMBERED:
                self._made.pop(next(iter(self._made)))
            self._made[media.digest] = kept.media
        return self._made[media.digest]

    @cached_property
    def _known(self) -> dict[str, list[MediaFinding]]:
        return {}

    @cached_property
    def _made(self) -> dict[str, Media]:
        return {}

    @cached_property
    def _key(self) -> HmacKey:
        return HmacKey.of()

    @cached_property
    def _file(self) -> FindingsFile | None:
        """What was found in earlier runs with the same settings and code; None where nothing is kept."""
        if self._kept is None:
            return None
        modules = sorted({type(part).__module__ for part in iter_components(self)})
        settings = {name: value for name, value in self.settings().items() if name != "action"}
        identity = digest_of(
            [settings, self.fingerprint(self._recipe_dir), code_revision(*modules, __name__), digest_plugin_code(self)]
        )
        return FindingsFile(self._kept / "media" / f"{self.kind}-{identity}.db", self._key)


def _list_media(row: Row, kind: str) -> Iterator[tuple[int, int, Media]]:
    """The media of one kind with turn and place in it."""
    for turn, message in enumerate(row.messages):
        for index, media in enumerate(message.media):
            if media.kind == kind:
                yield turn, index, media
