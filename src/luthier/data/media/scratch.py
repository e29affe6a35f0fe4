"""The bytes of pictures and sounds while rows pass operators: one file each, named by its digest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from luthier.chat.media_codec import KeptMedia
from luthier.core.errors import DataError
from luthier.core.files import translate_write_errors


@dataclass(frozen=True)
class MediaScratch:
    """A folder that the processes of one run share."""

    folder: Path

    def __contains__(self, digest: str) -> bool:
        return (self.folder / digest).is_file()

    def read(self, digest: str) -> bytes:
        """The bytes of a medium; `DataError` where it is not there."""
        try:
            return (self.folder / digest).read_bytes()
        except FileNotFoundError as error:
            hint = "run again; operators that look at media need a machine that sees the run's scratch folder"
            raise DataError(f"the bytes of the medium {digest[:12]} are not there", hint=hint) from error

    def write(self, kept: KeptMedia) -> None:
        """Put a medium there, whole or not at all, whoever else does the same."""
        path = self.folder / kept.media.digest
        if path.is_file():
            return
        with translate_write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f"{path.name}.{os.getpid()}")
            aside.write_bytes(kept.content)
            aside.replace(path)
