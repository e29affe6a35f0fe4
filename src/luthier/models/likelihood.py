"""How likely a model finds what follows: sums of log-probabilities over packs, and whether greedy writing says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.beginnings import Beginnings, read_once
from luthier.models.generate import OPTIONS_SHARE_FROM, PACK_TOKENS
from luthier.models.lanes import read_packs
from luthier.models.logprobs import logprobs, ranked
from luthier.models.pack import Pack, Row
from luthier.models.sequence import plain_model, refuse_sequence


class Likely(NamedTuple):
    """The natural log-likelihood of some tokens."""

    logprob: float
    tokens: int
    greedy: bool | None = None
    """Whether each of them is the likeliest where it stands; None when it was not asked."""


def likelihoods(
    model: torch.nn.Module,
    asked: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    greedy: bool = False,
    kept: Beginnings | None = None,
) -> list[Likely]:
    """For each (before, after): the summed log-probability of `after`; whatever rows share is read once in a
    pack, what all of them begin with once, and with `kept` once for all calls."""
    refuse_sequence(plain_model(model))
    rows = [
        Row([*before, *after], [0.0] * len(before) + [1.0] * len(after), str(at))
        for at, (before, after) in enumerate(asked)
    ]
    found: dict[str, Likely] = {}

    def told_of(pack: Pack) -> tuple[Tensor, Tensor | None]:
        return ranked(model, pack) if greedy else (logprobs(model, pack), None)

    with torch.no_grad(), read_once(model, rows, kept):
        for pack, (told, first) in read_packs(model, rows, tokens, told_of, OPTIONS_SHARE_FROM):
            path = pack.path.cpu()
            totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, path, told.double().cpu())
            counts = torch.bincount(path, minlength=pack.rows)
            hits = None if first is None else torch.bincount(path[first.cpu()], minlength=pack.rows) == counts
            for at, key in enumerate(pack.keys):
                found[key] = Likely(float(totals[at]), int(counts[at]), None if hits is None else bool(hits[at]))
    return [found[str(at)] for at in range(len(asked))]
