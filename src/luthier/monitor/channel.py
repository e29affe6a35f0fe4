"""A way to tell people: the role `channel`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from luthier.core.component import Component
from luthier.monitor.alert import Severity
from luthier.monitor.message import Message

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


class Unsent(Exception):
    """A message that could not be sent, and why; never with a secret in it."""


@dataclass(frozen=True)
class Post:
    """Where a channel works."""

    base: Path
    """Relative paths in settings start here: the recipe's folder."""


class Channel(Component):
    """Somebody or something that is told of alerts."""

    role: ClassVar[str] = "channel"
    home: ClassVar[str] = "luthier.monitor.channels"

    severity: Severity = "info"
    """Less severe alerts are not told here."""

    @abstractmethod
    def send(self, message: Message, post: Post) -> None:
        """Tell; `Unsent` says why it could not be. A message with an id that was sent before is the same message."""

    def wants(self, message: Message) -> bool:
        """Whether it is told of such a message."""
        return message.tells == "test" or _RANK[message.severity] >= _RANK[self.severity]
