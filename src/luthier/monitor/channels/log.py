"""Messages as lines of a log."""

from __future__ import annotations

import logging
import os
from typing import Literal

from luthier.core.context import RunContext
from luthier.core.files import PathText, resolve_path, translate_write_errors
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel

_LOOKED_BACK_BYTES = 1 << 18
"""So much of a file's end is looked at for a message that was sent before."""
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


class LogChannel(Channel):
    """Write messages to the log of the program (Python's `logging`, `luthier.monitor`), or to a file as JSON lines."""

    kind: Literal["log"] = "log"
    path: PathText | None = None
    """The file; without one, the program's log, which `luthier monitor run` prints."""

    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Write one line for each message to a file, and the full text to the program's log."""
        if self.path is None:
            logging.getLogger("luthier.monitor").log(_LEVELS[message.severity], "%s", message.text())
            return
        path = resolve_path(self.path, post.recipe_dir)
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOKED_BACK_BYTES))
                if f'"id":"{message.id}"'.encode() not in file.read():
                    file.write(message.model_dump_json().encode() + b"\n")
