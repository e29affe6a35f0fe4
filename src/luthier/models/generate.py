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
from luthier.models.generation.engine import (
    GREEDY,
    PORTION_ALONE,
    TOKENS,
    ContinuousBatchingDecoder,
    GenerationRequest,
    SamplingParams,
    Stop,
    TokenOutput,
)
from luthier.models.load import LoadedModel
from luthier.models.packing.logprobs import compute_logprobs_and_top1, compute_pack_logprobs
from luthier.models.packing.pack import SHARE_FROM, Pack, TokenRow
from luthier.models.packing.parallel import run_packs
from luthier.models.packing.prefix_cache import PrefixCache, share_prefixes
from luthier.models.sequence_head import get_head_outputs, refuse_sequence_head, strip_padding, unwrap_peft_model

PACK_TOKENS = 4096
"""Tokens read at once when answers are scored."""
OPTIONS_SHARE_FROM = 1
"""Options are short and often begin alike: every token that they share is read once."""


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Stop,
    *,
    sampling: SamplingParams = GREEDY,
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
        GenerationRequest(ids=ids, max_new_tokens=max_new_tokens, stop=stop, sampling=sampling, stream=stream)
        for ids, stream in zip(prompts, own, strict=True)
    ]
    room = max(tokens, max(map(len, prompts)) + max_new_tokens)
    decoder = ContinuousBatchingDecoder(loaded, tokens=room, portion=PORTION_ALONE)  # nobody waits for a single token
    _refuse(decoder.context, prompts)
    done = 0
    for index, output in decode_requests(decoder, asks):
        written[index].append(output.token)
        if output.finish is not None:
            done += 1
            if progress is not None:
                progress(done, len(prompts))
    return written


def decode_requests(
    decoder: ContinuousBatchingDecoder, requests: Sequence[GenerationRequest]
) -> Iterator[tuple[int, TokenOutput]]:
    """Each token that is generated for some requests, with the request's index, until all are finished."""
    # those that begin alike meet
    waiting = sorted(range(len(requests)), key=lambda index: list(requests[index].ids), reverse=True)
    indices: dict[int, int] = {}
    while waiting or indices:
        while waiting and (ticket := decoder.admit(requests[waiting[-1]])) is not None:
            indices[ticket] = waiting.pop()
        for output in decoder.step():
            yield indices[output.ticket], output
            if output.finish is not None:
                del indices[output.ticket]


def stream_token_ids(
    loaded: LoadedModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop: Stop,
    *,
    sampling: SamplingParams = GREEDY,
) -> Iterator[int]:
    """Generate after one prompt as `generate` does, yielding token ids as they come."""
    if max_new_tokens < 1:
        return
    decoder = ContinuousBatchingDecoder(loaded, tokens=max(TOKENS, len(prompt) + max_new_tokens))
    _refuse(decoder.context, [prompt])
    decoder.admit(GenerationRequest(ids=prompt, max_new_tokens=max_new_tokens, stop=stop, sampling=sampling))
    finish = None
    while finish is None:
        for token_output in decoder.step():
            finish = token_output.finish
            yield token_output.token


def _refuse(context: int, prompts: Sequence[Sequence[int]]) -> None:
    """`DataError` for the first prompt that the model cannot read."""
    for at, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise DataError(f"prompt {at} has {len(prompt)} tokens; the model reads 1 to {context - 1}")


class TokenLoglikelihood(NamedTuple):
    """The natural log-likelihood of a span of tokens, and their number."""

    logprob: float
    tokens: int
    greedy: bool | None = None
    """Whether each of them is the likeliest where it stands; None when it was not asked."""


def compute_loglikelihoods(
    model: torch.nn.Module,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    greedy: bool = False,
    kept: PrefixCache | None = None,
) -> list[TokenLoglikelihood]:
    """For each (before, after): the summed log-probability of `after`; whatever rows share is read once in a
    pack, what all of them begin with once, and with `kept` once for all calls."""
    rows = [
        TokenRow([*before, *after], [0.0] * len(before) + [1.0] * len(after), str(at))
        for at, (before, after) in enumerate(requests)
    ]
    refuse_sequence_head(unwrap_peft_model(model))
    with torch.no_grad(), share_prefixes(model, rows, kept):
        return compute_row_loglikelihoods(model, rows, tokens=tokens, greedy=greedy, share_from=OPTIONS_SHARE_FROM)


def compute_row_loglikelihoods(
    model: torch.nn.Module,
    rows: Sequence[TokenRow],
    *,
    tokens: int = PACK_TOKENS,
    greedy: bool = False,
    share_from: int = SHARE_FROM,
) -> list[TokenLoglikelihood]:
    """For each row, whose key is its own, the summed log-probability of the tokens that it marks."""
    refuse_sequence_head(unwrap_peft_model(model))
    found: dict[str, TokenLoglikelihood] = {}

    def told_of(pack: Pack) -> tuple[Tensor, Tensor | None]:
        return compute_logprobs_and_top1(model, pack) if greedy else (compute_pack_logprobs(model, pack), None)

    with torch.no_grad():
        for pack, (record, first) in run_packs(model, rows, tokens, told_of, share_from):
            path = pack.path.cpu()
            totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, path, record.double().cpu())
            counts = torch.bincount(path, minlength=pack.rows)
            hits = None if first is None else torch.bincount(path[first.cpu()], minlength=pack.rows) == counts
            for at, key in enumerate(pack.keys):
                found[key] = TokenLoglikelihood(
                    float(totals[at]), int(counts[at]), None if hits is None else bool(hits[at])
                )
    return [found[row.key] for row in rows]


def score_options(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    kept: PrefixCache | None = None,
) -> list[list[float]]:
    """For each prompt, the summed log-probability of each of its options; `kept` as for likelihoods."""
    pairs = [(prompt, option) for prompt, own in zip(prompts, options, strict=True) for option in own]
    loglikelihoods = iter(compute_loglikelihoods(model, pairs, tokens=tokens, kept=kept))
    return [[next(loglikelihoods).logprob for _ in own] for own in options]


def score_with_sequence_head(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int = PACK_TOKENS,
    kept: PrefixCache | None = None,
) -> list[list[float]]:
    """For each prompt, the log-probability of each output of a model with a sequence head; `kept` as for options."""
    outputs = torch.arange(len(get_head_outputs(unwrap_peft_model(model))))
    rows = [TokenRow([*prompt, 0], [0.0] * len(prompt) + [1.0], str(at)) for at, prompt in enumerate(prompts)]
    found: dict[str, list[float]] = {}

    def scored(made: Pack) -> Tensor:
        return compute_pack_logprobs(model, replace(made, choices=outputs.expand(made.rows, -1)))[:, 1:]

    with torch.no_grad(), share_prefixes(model, rows, kept):
        for made, scores in run_packs(model, rows, tokens, scored):
            found |= dict(zip(made.keys, scores.double().cpu().tolist(), strict=True))
    return [found[str(at)] for at in range(len(prompts))]


def compute_model_rewards(
    model: torch.nn.Module,
    conversations: Sequence[Sequence[int]],
    *,
    tokens: int = PACK_TOKENS,
    kept: PrefixCache | None = None,
) -> list[float]:
    """For each conversation, the one output of a model with a sequence head, read as transformers reads it: after the
    last token that is no padding."""
    pad = unwrap_peft_model(model).config.get_text_config().pad_token_id
    read = [strip_padding(ids, pad) for ids in conversations]
    rows = [TokenRow([*ids, 0], [0.0] * len(ids) + [1.0], str(at)) for at, ids in enumerate(read)]
    found: dict[str, float] = {}
    with torch.no_grad(), share_prefixes(model, rows, kept):
        for pack, scores in run_packs(model, rows, tokens, partial(compute_pack_logprobs, model), OPTIONS_SHARE_FROM):
            found |= dict(zip(pack.keys, scores.double().tolist(), strict=True))
    return [found[str(at)] for at in range(len(rows))]
