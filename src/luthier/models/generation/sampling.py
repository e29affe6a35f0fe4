"""What a decoder is asked to continue, and what it tells of each token that it writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

BASE = ""
"""The name of no adapter at all: the base model alone."""
Stop = Collection[int] | Callable[[Sequence[int]], bool]
"""Ids after which nothing is written, or what tells from the ids written so far whether they are enough."""
Allowed = Callable[[Sequence[int]], Tensor | None]
"""From the ids written so far, a (vocab,) bool mask of what may come next; None where anything may."""
Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 always takes the likeliest."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this share are drawn from."""
    seed: int = 0


GREEDY = SamplingParams()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt to be continued, with its sampling parameters and limits."""

    ids: Sequence[int]
    max_new_tokens: int
    stop: Stop
    sampling: SamplingParams = GREEDY
    stream: int = 0
    """Which random stream it draws from, among those of its seed."""
    adapter: str | None = None
    """An adapter that is loaded over the base, by its name; None: the model as it was loaded; `BASE`: none at all."""
    top_logprobs: int = 0
    """How many alternatives are told of each token; 0: only the token's own log-probability."""
    allowed: Allowed | None = None
    """A grammar: what may come next, given what was written."""


class TokenOutput(NamedTuple):
    """One generated token of a request, with its log-probability and the likeliest alternatives."""

    ticket: int
    token: int
    logprob: float
    """Under the model itself: before temperature, top_p and what is allowed."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, likeliest first."""
    finish: Finish | None
    """Why this was the last one: a stop, or the length asked or that the model reads; None where it goes on."""


def should_stop(ids: Sequence[int], stop: Stop) -> bool:
    """Whether what is written so far ends here."""
    return stop(ids) if callable(stop) else ids[-1] in stop
