"""The pictures and sounds of items as browsers get them: of a data set, of a file, or of requests that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from luthier.annotation.media import ItemMediaReader
from luthier.annotation.project import AnnotationProject
from luthier.annotation.question import QuestionItem
from luthier.chat.media_bytes import sniff_media_format
from luthier.chat.messages import Media
from luthier.commands.projects.workspace import find_project_file
from luthier.core.db import Ledger
from luthier.core.errors import DataError, LuthierError, MissingExtra
from luthier.recipe.workspace import Workspace

CONTENT_TYPES: Final[Mapping[str, str]] = {
    "png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "wav": "audio/wav", "flac": "audio/flac",
}  # fmt: skip
"""What browsers are told of the formats that data sets keep; no other bytes are given out, whatever they are called."""


class MediaFile(NamedTuple):
    """A picture or a sound as a browser gets it."""

    type: str
    content: bytes


class ItemMedia:
    """Gives out the media of items; the data sets read last stay open."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._reader = ItemMediaReader(ledger)
        self._workspace = workspace

    def read(self, project: AnnotationProject, medium: Media, side: int = 0) -> MediaFile:
        """A medium; a picture of more than `side` pixels a side smaller, where a side is given.

        `LuthierError` where its bytes are gone, `DataError` where they are not what was kept.
        """
        content = self._read_bytes(project, medium)
        name = sniff_media_format(content)
        if name is None or not CONTENT_TYPES.get(name, "").startswith(f"{medium.kind}/"):
            raise DataError(f"the bytes of {medium.describe()} are none", hint="prepare the rows again")
        whole = MediaFile(CONTENT_TYPES[name], content)
        if not side or medium.kind != "image" or 0 < max(medium.width or 0, medium.height or 0) <= side:
            return whole
        from luthier.chat.media_preview import preview_media

        try:
            return MediaFile(*preview_media(medium, content, side))
        except MissingExtra:  # no Pillow here: the browser scales it
            return whole

    def find_unreadable_media(self, project: AnnotationProject, shown: QuestionItem) -> frozenset[str]:
        """The digests of the media of an item that cannot be shown: their bytes are gone, or not what was kept."""
        found = set[str]()
        for medium in shown.media:
            try:
                self.read(project, medium)
            except (LuthierError, OSError):
                found.add(medium.digest)
        return frozenset(found)

    def close(self) -> None:
        """Close the data sets."""
        self._reader.close()

    def _read_bytes(self, project: AnnotationProject, medium: Media) -> bytes:
        if project.settings.purpose == "review":
            return self._read_traffic(project, medium)
        if project.settings.media is None:
            raise DataError(f"nothing keeps {medium.describe()}", hint="begin the project from rows that are prepared")
        return self._reader.read(project.settings.media, medium)

    def _read_traffic(self, project: AnnotationProject, medium: Media) -> bytes:
        from luthier.traces.media import read_trace_media
        from luthier.traces.retention import traffic_folder

        file = find_project_file(self._workspace, project.project)
        return read_trace_media(traffic_folder(file.parent), medium)
