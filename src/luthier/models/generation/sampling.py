"""What a decoder is asked to continue, and what it tells of each token that it writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
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


class SampledToken(NamedTuple):
    """A token, its log-probability under the model, and those of the likeliest."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


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


class SuppressedTokens(NamedTuple):
    """What a model never writes, as its generation settings say (`suppress_tokens`, `begin_suppress_tokens`)."""

    allowed: Tensor
    """(vocab,) bool: what may be written anywhere."""
    at_begin: Tensor
    """(vocab,) bool: what may be written first."""

    def without(self, other: Allowed | None) -> Allowed:
        """What may come next, when something else is asked besides."""

        def allowed(written: Sequence[int]) -> Tensor:
            own = self.allowed if written else self.at_begin
            mask = other(written) if other is not None else None
            return own if mask is None else own & mask.to(own.device)

        return allowed


def read_suppressed_tokens(model: Any, vocabulary: int) -> SuppressedTokens | None:
    """What a model's generation settings suppress; None where nothing is."""
    settings = getattr(model, "generation_config", None)
    names = ("suppress_tokens", "begin_suppress_tokens")
    everywhere, at_begin = ([id_ for id_ in getattr(settings, name, None) or () if id_ < vocabulary] for name in names)
    if not everywhere and not at_begin:
        return None
    allowed = torch.ones(vocabulary, dtype=torch.bool)
    allowed[everywhere] = False
    first = allowed.clone()
    first[at_begin] = False
    return SuppressedTokens(allowed, first)


def should_stop(ids: Sequence[int], stop: Stop) -> bool:
    """Whether what is written so far ends here."""
    return stop(ids) if callable(stop) else ids[-1] in stop
