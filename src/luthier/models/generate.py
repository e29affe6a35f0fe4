"""Writing text: greedy or sampled, many prompts at once or one as a stream; and scoring given answers.

What is written comes from the one decoder: what prompts share at their beginning is read once, and each draws from a
random stream of its own, so that what is written does not depend on who else is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.core.errors import DataError
from luthier.models.beginnings import Beginnings, read_once
from luthier.models.decoder import GREEDY, PORTION_ALONE, TOKENS, Ask, Decoder, Sampling, Stop
from luthier.models.lanes import read_packs
from luthier.models.load import Loaded
from luthier.models.logprobs import logprobs, ranked
from luthier.models.pack import SHARE_FROM, Pack, Row
from luthier.models.sequence import names_of, plain_model, refuse_sequence, without_padding

PACK_TOKENS = 4096
"""Tokens read at once when answers are scored."""
OPTIONS_SHARE_FROM = 1
"""Options are short and often begin alike: every token that they share is read once."""


def generate(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Stop,
    *,
    sampling: Sampling = GREEDY,
    streams: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    tokens: int = TOKENS,
) -> list[list[int]]:
    """What the model writes after each prompt, the stop id included; `progress` hears of finished prompts.

    `stop` holds ids, or tells from what is written so far whether it is enough. `streams` names the random stream that
    each prompt draws from; by default its place among the prompts. `tokens` bounds the key-value cache; a single prompt
    that is longer is answered all the same.
    """
    written: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return written
    own = range(len(prompts)) if streams is None else streams
    asks = [
        Ask(ids=ids, max_new_tokens=max_new_tokens, stop=stop, sampling=sampling, stream=stream)
        for ids, stream in zip(prompts, own, strict=True)
    ]
    room = max(tokens, max(map(len, prompts)) + max_new_tokens)
    decoder = Decoder(loaded, tokens=room, portion=PORTION_ALONE)  # nobody waits for a single token
    _refuse(decoder.context, prompts)
    waiting = sorted(range(len(prompts)), key=lambda at: list(prompts[at]), reverse=True)  # those that begin alike meet
    places: dict[int, int] = {}
    done = 0
    while done < len(prompts):
        while waiting and (ticket := decoder.admit(asks[waiting[-1]])) is not None:
            places[ticket] = waiting.pop()
        for one in decoder.step():
            written[places[one.ticket]].append(one.token)
            if one.finish is not None:
                done += 1
                if progress is not None:
                    progress(done, len(prompts))
    return written


def stream(
    loaded: Loaded,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop: Stop,
    *,
    sampling: Sampling = GREEDY,
) -> Iterator[int]:
    """The same ids as `generate` writes after one prompt, one by one as they come."""
    if max_new_tokens < 1:
        return
    decoder = Decoder(loaded, tokens=max(TOKENS, len(prompt) + max_new_tokens))
    _refuse(decoder.context, [prompt])
    decoder.admit(Ask(ids=prompt, max_new_tokens=max_new_tokens, stop=stop, sampling=sampling))
    finish = None
    while finish is None:
        for one in decoder.step():
            finish = one.finish
            yield one.token


def _refuse(context: int, prompts: Sequence[Sequence[int]]) -> None:
    """`DataError` for the first prompt that the model cannot read."""
    for at, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise DataError(f"prompt {at} has {len(prompt)} tokens; the model reads 1 to {context - 1}")


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
    rows = [
        Row([*before, *after], [0.0] * len(before) + [1.0] * len(after), str(at))
        for at, (before, after) in enumerate(asked)
    ]
    refuse_sequence(plain_model(model))
    with torch.no_grad(), read_once(model, rows, kept):
        return row_likelihoods(model, rows, tokens=tokens, greedy=greedy, share_from=OPTIONS_SHARE_FROM)


def row_likelihoods(
    model: torch.nn.Module,
    rows: Sequence[Row],
    *,
    tokens: int = PACK_TOKENS,
    greedy: bool = False,
    share_from: int = SHARE_FROM,
) -> list[Likely]:
    """For each row, whose key is its own, the summed log-probability of the tokens that it marks."""
    refuse_sequence(plain_model(model))
    found: dict[str, Likely] = {}

    def told_of(pack: Pack) -> tuple[Tensor, Tensor | None]:
        return ranked(model, pack) if greedy else (logprobs(model, pack), None)

    with torch.no_grad():
        for pack, (told, first) in read_packs(model, rows, tokens, told_of, share_from):
            path = pack.path.cpu()
            totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, path, told.double().cpu())
            counts = torch.bincount(path, minlength=pack.rows)
            hits = None if first is None else torch.bincount(path[first.cpu()], minlength=pack.rows) == counts
            for at, key in enumerate(pack.keys):
                found[key] = Likely(float(totals[at]), int(counts[at]), None if hits is None else bool(hits[at]))
    return [found[row.key] for row in rows]


def score_options(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    kept: Beginnings | None = None,
) -> list[list[float]]:
    """For each prompt, the summed log-probability of each of its options; `kept` as for likelihoods."""
    pairs = [(prompt, option) for prompt, own in zip(prompts, options, strict=True) for option in own]
    found = iter(likelihoods(model, pairs, tokens=tokens, kept=kept))
    return [[next(found).logprob for _ in own] for own in options]


def label_scores(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int = PACK_TOKENS,
    kept: Beginnings | None = None,
) -> list[list[float]]:
    """For each prompt, the log-probability of each output of a model with a sequence head; `kept` as for options."""
    outputs = torch.arange(len(names_of(plain_model(model))))
    rows = [Row([*prompt, 0], [0.0] * len(prompt) + [1.0], str(at)) for at, prompt in enumerate(prompts)]
    found: dict[str, list[float]] = {}

    def scored(made: Pack) -> Tensor:
        return logprobs(model, replace(made, choices=outputs.expand(made.rows, -1)))[:, 1:]

    with torch.no_grad(), read_once(model, rows, kept):
        for made, scores in read_packs(model, rows, tokens, scored):
            found |= dict(zip(made.keys, scores.double().cpu().tolist(), strict=True))
    return [found[str(at)] for at in range(len(prompts))]


def rewards(
    model: torch.nn.Module,
    conversations: Sequence[Sequence[int]],
    *,
    tokens: int = PACK_TOKENS,
    kept: Beginnings | None = None,
) -> list[float]:
    """For each conversation, the one output of a model with a sequence head, read as transformers reads it: after the
    last token that is no padding."""
    pad = plain_model(model).config.get_text_config().pad_token_id
    read = [without_padding(ids, pad) for ids in conversations]
    rows = [Row([*ids, 0], [0.0] * len(ids) + [1.0], str(at)) for at, ids in enumerate(read)]
    found: dict[str, float] = {}
    with torch.no_grad(), read_once(model, rows, kept):
        for made, said in read_packs(model, rows, tokens, partial(logprobs, model), OPTIONS_SHARE_FROM):
            found |= dict(zip(made.keys, said.double().tolist(), strict=True))
    return [found[str(at)] for at in range(len(rows))]
