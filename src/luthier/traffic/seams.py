"""Where the gateway meets those who release models and keep traces: who answers to a name, and who hears of a request.

The gateway knows these protocols and nothing of what stands behind them. `Route.model` is a word that the gateway's
open models know (`recipe.yaml:tune`, a base model's name, an artifact's digest); an alias such as `support@prod` is
the resolver's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.traffic.record import Arm, TraceEnd, TraceStart


class Recorder(Protocol):
    """Hears of every request when it is over, refused ones included."""

    def ready(self, start: TraceStart) -> Any:
        """Take the beginning of a trace while the model is at work; returns what `end` is given, None where no trace is
        to be kept."""
        ...

    def end(self, ready: Any, end: TraceEnd) -> None:
        """Take the end of a trace. It is called on the request's own path: it neither waits nor raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who answers one request."""

    model: str
    """The open model that answers."""
    release: str = ""
    """Digest of what answers, where the resolver knows it; else the open model's own."""
    arm: Arm = "stable"
    shadow: str | None = None
    """An open model that is asked the same, unheard; its trace has `arm: shadow`."""


class Resolver(Protocol):
    """Knows which model a name means at this moment. It is asked once a request, and what it said holds to its end."""

    def names(self) -> Sequence[str]:
        """The names that can be asked for, beside those of the open models."""
        ...

    def resolve(self, name: str, user: str | None, request: str = "") -> Route | None:
        """Who answers to a name; None when it is none of the resolver's names. It does not wait. `request` is the
        request's id, which decides where no user is named."""
        ...

    def owners(self) -> Mapping[str, str | None]:
        """Names, and words by which models are open, that belong to one key: by each, the key's name. All others are
        everybody's."""
        ...


class Models(Protocol):
    """The models that the gateway holds open, for whoever switches an alias."""

    async def prepare(self, model: str) -> str:
        """Open a model if it is not open, and return its digest; what was wrong is raised before any alias moves."""
        ...

    async def retire(self, model: str) -> None:
        """Close a model once the last request that it answers is over."""
        ...
