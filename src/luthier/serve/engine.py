"""Whoever answers: the role `engine`, and a model that one of them has opened.

An engine is settings. It opens a model, and what it opened answers queries as streams of pieces, many at once. Whoever
stops listening to a stream ends it: what was asked for is written no further.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.serve.bodies import without_parameter
from luthier.serve.query import Piece, Query, Verb
from luthier.serve.refusal import Refusal
from luthier.text.messages import Message

if TYPE_CHECKING:
    from luthier.models.embedder import Points


class Answering(ABC):
    """An open model."""

    able: ClassVar[frozenset[Verb]] = frozenset({"chat", "completion"})
    """What it can be asked for."""
    chooses: ClassVar[bool] = False
    """Whether it names one of a few classes."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        """Names the model, its adapter included."""
        self.system = ""
        """The system message with which conversations begin that have none, as those did that the model learnt from."""

    @abstractmethod
    def answer(self, query: Query) -> AsyncGenerator[Piece, None]:
        """The pieces of the answers, as they are written.

        `Refusal` for what cannot be answered, before the first piece; `Busy` when too many wait already.
        """

    def unused(self, query: Query) -> tuple[str, ...]:
        """Settings of sampling that were asked for and change nothing for this model; `Refusal` for one that should and
        cannot."""
        for name in query.unsupported:
            raise without_parameter(name)
        return ()

    def as_learnt(self, query: Query) -> Query:
        """A query as the model is to read it."""
        if not self.system or query.verb != "chat" or (query.messages[:1] and query.messages[0].role == "system"):
            return query
        return replace(query, messages=(Message(role="system", content=self.system), *query.messages))

    async def points(self, texts: Sequence[str]) -> tuple[Points, int]:
        """A point for each text, and how many tokens were read."""
        raise Refusal("this model makes no embeddings", param="model")

    @property
    def waiting(self) -> int:
        """Answers that are not begun yet."""
        return 0

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return 0

    async def close(self) -> None:
        """Let the model go; whatever is being written ends."""
        return


class Engine(Component):
    """A way to serve a model."""

    role: ClassVar[str] = "engine"
    home: ClassVar[str] = "luthier.serve.engines"

    @abstractmethod
    def open(self, model: Artifact) -> Answering:
        """Open a model artifact; `ModelError` when this engine cannot serve it."""
