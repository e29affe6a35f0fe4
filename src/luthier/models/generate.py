"""Generation: greedy or sampled, batched or streamed; and scoring of given answers.

All completions come from one decoder: shared prefixes are computed once, and each prompt has its own random stream, so
that a completion does not depend on the other requests.
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
"""Maximum tokens of a pack when answers are scored."""
OPTIONS_SHARE_FROM = 1
"""Minimum shared prefix of options: they are short and often begin alike, so every shared token is computed once."""


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
    """Return the completion of each prompt, stop id included; `progress` is called with the number of finished prompts.

    `stop` are ids, or a function of the ids so far that says whether to stop. `streams` are the random streams of the
    prompts; by default their indices. `tokens` bounds the KV cache; a single longer prompt is completed all the same.
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
    """Yield each generated token of some requests, with the request's index, until all are finished."""
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
    """Yield the token ids of one completion as they are generated."""
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
    """Raise `DataError` for the first prompt that exceeds the model's context."""
    for at, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise DataError(f"prompt {at} has {len(prompt)} tokens; the model reads 1 to {context - 1}")


class TokenLoglikelihood(NamedTuple):
    """The log-likelihood (natural logarithm) of a span of tokens, and their number."""

    logprob: float
    tokens: int
    greedy: bool | None = None
    """Whether each of them is the top prediction; None when not requested."""


def compute_loglikelihoods(
    model: torch.nn.Module,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    greedy: bool = False,
    kept: PrefixCache | None = None,
) -> list[TokenLoglikelihood]:
    """Return for each (before, after) the summed log-probability of `after`.

    Shared prefixes are computed once in a pack, a prefix of all rows once in a call, and with `kept` once for all
    calls.
    """
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
    """Return for each row, which needs a unique key, the summed log-probability of its marked tokens."""
    refuse_sequence_head(unwrap_peft_model(model))
    results: dict[str, TokenLoglikelihood] = {}

    def told_of(pack: Pack) -> tuple[Tensor, Tensor | None]:
        return compute_logprobs_and_top1(model, pack) if greedy else (compute_pack_logprobs(model, pack), None)

    with torch.no_grad():
        for pack, (record, first) in run_packs(model, rows, tokens, told_of, share_from):
            path = pack.path.cpu()
            totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, path, record.double().cpu())
            counts = torch.bincount(path, minlength=pack.rows)
            hits = None if first is None else torch.bincount(path[first.cpu()], minlength=pack.rows) == counts
            for at, key in enumerate(pack.keys):
                results[key] = TokenLoglikelihood(
                    float(totals[at]), int(counts[at]), None if hits is None else bool(hits[at])
                )
    return [results[row.key] for row in rows]


def score_options(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
    kept: PrefixCache | None = None,
) -> list[list[float]]:
    """Return for each prompt the summed log-probability of each of its options; `kept` as in
    `compute_loglikelihoods`.
    """
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
    """Return for each prompt the log-probability of each output of a model with a sequence head; `kept` as in
    `score_options`.
    """
    outputs = torch.arange(len(get_head_outputs(unwrap_peft_model(model))))
    rows = [TokenRow([*prompt, 0], [0.0] * len(prompt) + [1.0], str(at)) for at, prompt in enumerate(prompts)]
    scores_by_row: dict[str, list[float]] = {}

    def scored(made: Pack) -> Tensor:
        return compute_pack_logprobs(model, replace(made, choices=outputs.expand(made.rows, -1)))[:, 1:]

    with torch.no_grad(), share_prefixes(model, rows, kept):
        for made, scores in run_packs(model, rows, tokens, scored):
            scores_by_row |= dict(zip(made.keys, scores.double().cpu().tolist(), strict=True))
    return [scores_by_row[str(at)] for at in range(len(prompts))]


def compute_model_rewards(
    model: torch.nn.Module,
    conversations: Sequence[Sequence[int]],
    *,
    tokens: int = PACK_TOKENS,
    kept: PrefixCache | None = None,
) -> list[float]:
    """Return for each conversation the single output of a model with a sequence head, at the last token that is not
    padding, as in transformers.
    """
    pad = unwrap_peft_model(model).config.get_text_config().pad_token_id
    read = [strip_padding(ids, pad) for ids in conversations]
    rows = [TokenRow([*ids, 0], [0.0] * len(ids) + [1.0], str(at)) for at, ids in enumerate(read)]
    rewards: dict[str, float] = {}
    with torch.no_grad(), share_prefixes(model, rows, kept):
        for pack, scores in run_packs(model, rows, tokens, partial(compute_pack_logprobs, model), OPTIONS_SHARE_FROM):
            rewards |= dict(zip(pack.keys, scores.double().tolist(), strict=True))
    return [rewards[str(at)] for at in range(len(rows))]
