"""Generation requests, sampling parameters and generated tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

BASE = ""
"""Adapter name that means no adapter: the base model alone."""
Stop = Collection[int] | Callable[[Sequence[int]], bool]
"""Ids after which generation stops, or a function of the ids so far that says whether to stop."""
Allowed = Callable[[Sequence[int]], Tensor | None]
"""Returns from the ids so far a (vocab,) bool mask of allowed next tokens; None where all are allowed."""
Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is sampled."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Cumulative probability of the likeliest tokens to sample from."""
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
    """Random stream, among those of the seed."""
    adapter: str | None = None
    """Name of a loaded adapter; None: the model as it was loaded; `BASE`: no adapter."""
    top_logprobs: int = 0
    """Number of alternatives reported for each token; 0: only the token's own log-probability."""
    allowed: Allowed | None = None
    """A grammar: allowed next tokens, given the ids so far."""


class SampledToken(NamedTuple):
    """A token, its log-probability under the model, and the likeliest alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenOutput(NamedTuple):
    """One generated token of a request, with its log-probability and the likeliest alternatives."""

    ticket: int
    token: int
    logprob: float
    """Under the model itself: before temperature, top_p and grammar."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, likeliest first."""
    finish: Finish | None
    """Why this is the last token: a stop, or a length limit; None where generation continues."""


class SuppressedTokens(NamedTuple):
    """Tokens that a model never generates, by its generation settings (`suppress_tokens`, `begin_suppress_tokens`)."""

    allowed: Tensor
    """(vocab,) bool: allowed at any position."""
    at_begin: Tensor
    """(vocab,) bool: allowed as the first token."""

    def without(self, other: Allowed | None) -> Allowed:
        """Return the allowed next tokens, combined with another grammar."""

        def allowed(written: Sequence[int]) -> Tensor:
            own = self.allowed if written else self.at_begin
            mask = other(written) if other is not None else None
            return own if mask is None else own & mask.to(own.device)

        return allowed


def read_suppressed_tokens(model: Any, vocabulary: int) -> SuppressedTokens | None:
    """Return the tokens that a model's generation settings suppress; None where there are none."""
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
    """Return whether generation stops after these ids."""
    return stop(ids) if callable(stop) else ids[-1] in stop
