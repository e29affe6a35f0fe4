"""Requests to an engine, their media and their output."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from luthier.chat.messages import Message, ToolCall
from luthier.core.errors import ModelError

Verb = Literal["chat", "completion", "embedding"]
Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, kw_only=True)
class ToolOptions:
    """Functions on offer, and how free the model is to call them."""

    offered: tuple[Mapping[str, Any], ...]
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True
    """Whether one answer may make several calls."""

    @property
    def by_name(self) -> dict[str, Mapping[str, Any]]:
        """The schema of each function's arguments."""
        functions = [entry["function"] for entry in self.offered]
        return {
            str(function["name"]): function.get("parameters") or {"type": "object", "properties": {}}
            for function in functions
        }


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One generation or scoring request in the form of every engine."""

    messages: tuple[Message, ...] = ()
    """A conversation that is to be answered; empty where a plain text is to be continued."""
    text: str | tuple[int, ...] | None = None
    """A plain text, or its token ids, to be continued."""
    media: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The bytes of the pictures and sounds in `messages`, by digest."""
    language: str | None = None
    """The language of the sounds, for a model that transcribes several."""
    tools: ToolOptions | None = None
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the answer keeps; None: any text."""
    answers: int = 1
    """Number of answers (`n`)."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends."""
    logprobs: bool = False
    top_logprobs: int = 0
    """Number of alternatives reported for each token."""
    unsupported: tuple[str, ...] = ()
    """Settings of sampling, by name, that were asked for and that no engine follows (`Answering.unused`)."""
    echo: bool = False
    """Whether the prompt is returned first, with its log-probabilities if requested."""
    label_set: bool = False
    """Whether a classifier returns its label set."""
    by_id: bool = False
    """Whether tokens are named by their ids, the end token included."""

    @property
    def verb(self) -> Verb:
        """Kind of operation."""
        return "chat" if self.text is None else "completion"


class LabelSetOutput(NamedTuple):
    """The labels that an answer may be; a model abstains where that is not exactly one."""

    labels: tuple[str, ...]
    """The likeliest first."""
    level: float
    """The share of such sets that shall hold the right label."""


class TokenCandidate(NamedTuple):
    """A candidate token at a position, and its log-probability."""

    text: str
    raw: bytes
    logprob: float | None
    """None for a first token, which nothing stands before."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """A token of an answer."""

    chosen: TokenCandidate
    top: tuple[TokenCandidate, ...] = ()
    """The likeliest, likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Token usage of an answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were not computed again."""
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class OutputChunk:
    """A chunk of one of the answers. The last chunk of each has a `finish` and its usage."""

    answer: int = 0
    """Index of the answer, from 0."""
    text: str = ""
    tokens: tuple[TokenLogprobs, ...] = ()
    """The tokens that were written since the last piece, where log-probabilities are wanted."""
    calls: tuple[ToolCall, ...] = ()
    """Calls of functions, each whole."""
    finish: Finish | None = None
    usage: Usage | None = None
    scores: Mapping[str, float] | None = None
    """Probability of each label, from a model that chooses one."""
    label_set: LabelSetOutput | None = None
    """The labels that the answer may be, where they were asked for."""
    calibration: float | None = None
    """Temperature that the labels' log-scores were divided by."""


@dataclass(kw_only=True)
class AggregatedOutput:
    """An answer put together from its pieces."""

    text: str = ""
    tokens: list[TokenLogprobs] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finish: Finish | None = None
    usage: Usage = field(default_factory=Usage)
    scores: Mapping[str, float] | None = None
    label_set: LabelSetOutput | None = None
    calibration: float | None = None

    def add(self, piece: OutputChunk) -> None:
        """Take in the next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.calls += piece.calls
        self.finish = piece.finish or self.finish
        self.usage = piece.usage or self.usage
        self.scores = piece.scores or self.scores
        self.label_set = piece.label_set or self.label_set
        self.calibration = piece.calibration or self.calibration


class RequestMedia:
    """Holds media by digest; what several requests bring is held once. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[bytes, int]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, media: Mapping[str, bytes]) -> Iterator[None]:
        """Hold some media for a while."""
        with self._lock:
            for digest, content in media.items():
                self._held[digest] = content, self._held.get(digest, (b"", 0))[1] + 1
        try:
            yield
        finally:
            with self._lock:
                for digest in media:
                    content, holders = self._held.pop(digest)
                    if holders > 1:
                        self._held[digest] = content, holders - 1

    def read(self, digest: str) -> bytes:
        """The bytes of a medium; `ModelError` where no request holds it any more."""
        with self._lock:
            if digest not in self._held:
                raise ModelError(f"the medium {digest[:12]} belongs to no request that is being answered")
            return self._held[digest][0]
