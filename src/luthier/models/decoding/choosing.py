"""The next token of a line: the likeliest, or one that is drawn; and its log-probability."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.decoding.line import Line

_FEW = 512
"""So many of the likeliest tokens are looked at first: they mostly have the share that is asked."""
_COLD = torch.finfo(torch.float32).tiny
"""Below it, a temperature is none: as a number of fp32 it may be 0, by which nothing can be divided."""


class Choice(NamedTuple):
    """A token, its log-probability under the model, and those of the likeliest."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def choose(logits: Tensor, lines: list[Line]) -> list[Choice]:
    """The next token of each line, from (lines, vocab) logits in at least fp32."""
    likeliest = logits.argmax(-1).tolist()
    whole = logits.logsumexp(-1)
    tokens = [_token(row, line, first) for row, line, first in zip(logits, lines, likeliest, strict=True)]
    places = torch.tensor(tokens, device=logits.device)[:, None]
    own = (logits.gather(1, places)[:, 0] - whole).tolist()
    tops = [_top(row, total, line) for row, total, line in zip(logits, whole, lines, strict=True)]
    return [Choice(*one) for one in zip(tokens, own, tops, strict=True)]


def _token(logits: Tensor, line: Line, likeliest: int) -> int:
    """One token of a line, from (vocab,) logits."""
    sampling = line.ask.sampling
    allowed = line.ask.allowed(line.written) if line.ask.allowed is not None else None
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device), float("-inf"))
    if sampling.temperature <= _COLD:
        return likeliest if allowed is None else int(logits.argmax())
    below = (logits - logits.max()) / sampling.temperature  # at most 0, however low the temperature
    return draw(torch.softmax(below, -1).cpu(), sampling.top_p, line.chance)


def draw(shares: Tensor, top_p: float, chance: torch.Generator) -> int:
    """One token, from the likeliest ones that together have a share of `top_p`.

    Each token keeps its place while it is drawn, so that two of nearly the same share, which stand in another order
    when their last bits differ, are not taken for each other.
    """
    if top_p < 1:
        ordered, tokens = shares.topk(min(_FEW, shares.shape[0]))
        if float(ordered.sum()) < top_p:
            ordered, tokens = shares.sort(descending=True)
        kept = ordered.cumsum(0) - ordered < top_p
        kept[0] = True  # however small a share is asked: as a number of fp32 it may be 0
        shares = torch.zeros_like(shares).scatter(0, tokens, ordered * kept)
    return int(torch.multinomial(shares, 1, generator=chance))


def _top(logits: Tensor, whole: Tensor, line: Line) -> tuple[tuple[int, float], ...]:
    count = min(line.ask.top_logprobs, logits.shape[0])
    if not count:
        return ()
    found = logits.topk(count)
    return tuple(zip(found.indices.tolist(), (found.values - whole).tolist(), strict=True))
