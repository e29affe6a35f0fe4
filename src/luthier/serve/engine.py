"""The role `engine`, and the models that it opens.

An engine is settings. The model that it opens answers requests as streams of chunks, many at once. A client that stops
reading its stream cancels the request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.serve.openai.protocol import APIError, unsupported_parameter_error
from luthier.serve.request import EngineRequest, OutputChunk, Verb

if TYPE_CHECKING:
    from luthier.artifacts.decisions import ConformalSummary
    from luthier.models.embeddings.base import Points


class ModelRunner(ABC):
    """An open model."""

    able: ClassVar[frozenset[Verb]] = frozenset({"chat", "completion"})
    """The supported operations."""
    chooses: ClassVar[bool] = False
    """Whether it is a classifier."""
    reads_media: bool = False
    """Whether it accepts images or audio."""
    transcribes: bool = False
    """Whether it only transcribes audio."""
    echoes: ClassVar[bool] = False
    """Whether it returns the log-probabilities of a prompt."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        """Names the model, its adapter included."""
        self.system = ""
        """The system message with which conversations begin that have none, as those did that the model learnt from."""

        self.label_sets: ConformalSummary | None = None
        """Of a model that names a class: the thresholds of its label sets, where they were calibrated."""

    @abstractmethod
    def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        """Yield the chunks of the answers as they are generated.

        `APIError` for an unsupported request, before the first chunk; `Busy` when too many requests wait.
        """

    def unused(self, query: EngineRequest) -> tuple[str, ...]:
        """Settings of sampling that were asked for and change nothing for this model; `APIError` for one that should
        and cannot."""
        for name in query.unsupported:
            raise unsupported_parameter_error(name)
        return ()

    def apply_training_prompt(self, query: EngineRequest) -> EngineRequest:
        """A query as the model is to read it."""
        if not self.system or query.verb != "chat" or (query.messages[:1] and query.messages[0].role == "system"):
            return query
        return replace(query, messages=(Message(role="system", content=self.system), *query.messages))

    async def points(self, texts: Sequence[str]) -> tuple[Points, int]:
        """A point for each text, and how many tokens were read."""
        raise APIError("this model makes no embeddings", param="model")

    @property
    def waiting(self) -> int:
        """Answers that are not begun yet."""
        return 0

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return 0

    async def close(self) -> None:
        """Free the model; running requests end."""
        return


class ServingEngine(Component):
    """A way to serve a model."""

    role: ClassVar[str] = "engine"
    home: ClassVar[str] = "luthier.serve.engines"

    @abstractmethod
    def open(self, model: Artifact) -> ModelRunner:
        """Open a model artifact; `ModelError` when this engine cannot serve it."""
