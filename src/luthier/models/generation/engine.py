"""Generate completions by continuous batching over a paged KV cache.

    decoder = ContinuousBatchingDecoder(loaded)
    ticket = decoder.admit(GenerationRequest(ids=prompt, max_new_tokens=64, stop=ends))
    while …:
        for output in decoder.step():
            …

Evaluation, serving and reinforcement learning share this engine. A completion does not depend on the other sequences in
the batch: each sequence has its own random stream, and a model computes a token with the same numbers in any batch.

- `BatchedBackend` reads the new tokens of many sequences in one forward pass. Decoders of the known kind run
  on the kernels alone; in others, attention is plugged into transformers' registry and the layers see one row of tokens
  with positions. Keys and values lie in blocks that sequences with a common prefix share.
- `UnbatchedBackend` reads each sequence by itself through transformers' own cache, for models with a recurrent
  state or with attention outside the registry.

A trial on a few tokens decides once for each model whether the kernels may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS
from luthier.core.errors import DataError
from luthier.models.adapters import compute_soft_prompt
from luthier.models.generation.backends import (
    PrefillChunk,
    SequenceState,
    open_backend,
)
from luthier.models.generation.cpu_decoder import (
    activate_adapter,
    check_adapter_loaded,
)
from luthier.models.generation.sampling import (
    BASE,
    GREEDY,
    Finish,
    GenerationRequest,
    SampledToken,
    SamplingParams,
    Stop,
    TokenOutput,
    read_suppressed_tokens,
    should_stop,
)
from luthier.models.load import LoadedModel
from luthier.models.media.encoder_decoder import attends_to_encoder, get_context_length
from luthier.models.media.towers import find_towers
from luthier.models.packing.logprobs import (
    compute_pack_logprobs,
    compute_top_tokens,
    disable_dropout,
)
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.sequence_head import refuse_sequence_head, unwrap_peft_model

_FEW = 512
"""Number of likeliest tokens tried first for top-p: usually they suffice."""
_COLD = torch.finfo(torch.float32).tiny
"""Temperatures below it count as 0: in fp32 the division would fail."""


def choose_next_tokens(logits: Tensor, lines: list[SequenceState]) -> list[SampledToken]:
    """Return the next token of each sequence, from (sequences, vocab) logits in at least fp32."""
    likeliest = logits.argmax(-1).tolist()
    whole = logits.logsumexp(-1)
    tokens = [_token(row, line, first) for row, line, first in zip(logits, lines, likeliest, strict=True)]
    token_ids = torch.tensor(tokens, device=logits.device)[:, None]
    own = (logits.gather(1, token_ids)[:, 0] - whole).tolist()
    tops = [_top(row, total, line) for row, total, line in zip(logits, whole, lines, strict=True)]
    return [SampledToken(*token) for token in zip(tokens, own, tops, strict=True)]


def _token(logits: Tensor, line: SequenceState, likeliest: int) -> int:
    """Return one token of a sequence, from (vocab,) logits."""
    sampling = line.ask.sampling
    allowed = line.ask.allowed(line.written) if line.ask.allowed is not None else None
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device), float("-inf"))
    if sampling.temperature <= _COLD:
        return likeliest if allowed is None else int(logits.argmax())
    below = (logits - logits.max()) / sampling.temperature  # at most 0, however low the temperature
    return sample_top_p(torch.softmax(below, -1).cpu(), sampling.top_p, line.chance)


def sample_top_p(shares: Tensor, top_p: float, chance: torch.Generator) -> int:
    """Sample one token from the likeliest ones with a cumulative probability of `top_p`.

    Tokens are sampled in the order of the vocabulary, so that two of nearly equal probability, whose order depends on
    their last bits, are not confused.
    """
    if top_p < 1:
        ordered, tokens = shares.topk(min(_FEW, shares.shape[0]))
        if float(ordered.sum()) < top_p:
            ordered, tokens = shares.sort(descending=True)
        kept = ordered.cumsum(0) - ordered < top_p
        kept[0] = True  # however small a share is asked: as a number of fp32 it may be 0
        shares = torch.zeros_like(shares).scatter(0, tokens, ordered * kept)
    return int(torch.multinomial(shares, 1, generator=chance))


def _top(logits: Tensor, whole: Tensor, line: SequenceState) -> tuple[tuple[int, float], ...]:
    count = min(line.ask.top_logprobs, logits.shape[0])
    if not count:
        return ()
    topk = logits.topk(count)
    return tuple(zip(topk.indices.tolist(), (topk.values - whole).tolist(), strict=True))


__all__ = ["BASE", "GREEDY", "ContinuousBatchingDecoder", "GenerationRequest", "SamplingParams", "Stop", "TokenOutput"]

TOKENS = 16_384
"""Maximum tokens of prompts and completions in the KV cache."""
PORTION = 64
"""Prompt tokens read in a step while completions are generated."""
PORTION_ALONE = 512
"""Prompt tokens read in a step while nothing is generated."""


class ContinuousBatchingDecoder:
    """Generates tokens for many requests by continuous batching, one token of each request at a step.

    `tokens` bounds the KV cache. While completions are generated, `portion` prompt tokens are read at a step: fewer
    keep the time between tokens short, more let new requests join sooner.
    """

    def __init__(self, loaded: LoadedModel, *, tokens: int = TOKENS, portion: int = PORTION) -> None:
        refuse_sequence_head(unwrap_peft_model(loaded.model))
        self._model = loaded.model
        self._reader = open_backend(loaded.model, tokens)
        self._vocabulary = int(unwrap_peft_model(loaded.model).config.get_text_config().vocab_size)
        self._suppressed = read_suppressed_tokens(loaded.model, self._vocabulary)
        self._portion = portion
        self._lines: dict[int, SequenceState] = {}
        self._done: dict[int, SequenceState] = {}
        self._tickets = 0

    def admit(self, ask: GenerationRequest) -> int | None:
        """Add a request and return its ticket; None when there is no room now.

        `DataError` for a prompt that exceeds the model's context, `ModelError` for an adapter that is not loaded.
        """
        check_adapter_loaded(self._model, ask.adapter)
        context = self.context
        if not 0 < len(ask.ids) < context:
            raise DataError(f"the prompt has {len(ask.ids)} tokens; the model reads 1 to {context - 1}")
        reads_media = find_towers(unwrap_peft_model(self._model)) is not None
        if unknown := [
            id_ for id_ in ask.ids if not 0 <= id_ < self._vocabulary and not (reads_media and id_ >= MEDIA_IDS)
        ]:
            raise DataError(f"the prompt has the token {unknown[0]}; the model knows 0 to {self._vocabulary - 1}")
        if attends_to_encoder(unwrap_peft_model(self._model)) and ask.ids[0] < MEDIA_IDS:
            raise DataError("the model transcribes sounds, and the prompt has none", hint="give one sound")
        if self._suppressed is not None:
            ask = replace(ask, allowed=self._suppressed.without(ask.allowed))
        if ask.max_new_tokens < 1:
            raise DataError(f"{ask.max_new_tokens} new tokens are asked", hint="ask for one at least")
        end = min(len(ask.ids) + ask.max_new_tokens, context)
        line = SequenceState(self._tickets, ask, end, list(ask.ids))
        line.chance.manual_seed(ask.sampling.seed * 1_000_003 + ask.stream)
        if not self._reader.open(line):
            return None
        self._tickets += 1
        self._lines[line.ticket] = line
        return line.ticket

    @torch.no_grad()
    def step(self) -> list[TokenOutput]:
        """Read a chunk of waiting prompts, and generate the next token of every request whose prompt is read."""
        self._done.clear()
        portions = self._next()
        if not portions:
            return []
        with disable_dropout(self._model) if self._model.training else nullcontext():
            logits = self._reader.read(portions)
        lasts = [portion.line for portion in portions if portion.last]
        for line, count in portions:
            line.read += count
        return [
            self._write(line, choice) for line, choice in zip(lasts, self._choose_tokens(logits, lasts), strict=True)
        ]

    @torch.no_grad()
    def prompt_logprobs(self, ids: Sequence[int], top: int, adapter: str | None) -> list[SampledToken]:
        """Return each token of a text except the first, with its log-probability and the `top` likeliest
        alternatives.
        """
        check_adapter_loaded(self._model, adapter)
        if len(ids) < 2:
            return []
        with activate_adapter(self._model, adapter), disable_dropout(self._model):
            pack = build_pack([TokenRow(list(ids), [0.0] + [1.0] * (len(ids) - 1))])
            own = compute_pack_logprobs(self._model, pack).tolist()
            tops: list[Any] = [()] * len(own)
            if top:
                sampled = compute_top_tokens(self._model, pack, top, below=self._vocabulary, temperature=1.0)
                assert sampled.choices is not None
                assert sampled.teacher is not None
                tops = [
                    tuple(zip(*choice, strict=True))
                    for choice in zip(sampled.choices.tolist(), sampled.teacher.tolist(), strict=True)
                ]
        return [SampledToken(*id_) for id_ in zip(ids[1:], own, tops, strict=True)]

    def cancel(self, ticket: int) -> None:
        """Cancel a request; a finished one is ignored."""
        line = self._lines.pop(ticket, None)
        if line is not None:
            self._reader.close(line)

    @property
    def context(self) -> int:
        """Context length of the model, without virtual tokens."""
        config = unwrap_peft_model(self._model).config
        return (get_context_length(config) or 1 << 40) - compute_soft_prompt(self._model).count

    @property
    def cached(self) -> int:
        """Tokens in the prefix cache."""
        return self._reader.cached

    def cached_tokens(self, ticket: int) -> int:
        """Return the prompt tokens of a request that were in the prefix cache; call it before the step
        after its last.
        """
        line = self._lines.get(ticket) or self._done[ticket]
        return line.found

    def switch_adapters(self, model: object) -> None:
        """Use the same weights with other adapters; running requests keep theirs."""
        self._model = model
        self._reader.switch_adapters(model)

    def close(self) -> None:
        """Cancel all requests."""
        for ticket in list(self._lines):
            self.cancel(ticket)

    def _next(self) -> list[PrefillChunk]:
        """Return the chunks of the next step: one token of each running sequence, and some of the waiting prompts."""
        going = [PrefillChunk(line, 1) for line in self._lines.values() if line.is_prefilled]
        waiting = [line for line in self._lines.values() if not line.is_prefilled]
        return going + self._reader.schedule_prefill(
            waiting, self._portion if going else max(self._portion, PORTION_ALONE)
        )

    def _choose_tokens(self, logits: Tensor, lines: list[SequenceState]) -> Sequence[SampledToken]:
        return choose_next_tokens(logits, lines) if lines else ()

    def _write(self, line: SequenceState, choice: SampledToken) -> TokenOutput:
        line.ids.append(choice.token)
        finish = self._finish(line)
        if finish is not None:
            self.cancel(line.ticket)
            self._done[line.ticket] = line
        return TokenOutput(line.ticket, choice.token, choice.logprob, choice.top, finish)

    def _finish(self, line: SequenceState) -> Finish | None:
        if should_stop(line.written, line.ask.stop):
            return "stop"
        return "length" if len(line.ids) >= line.end else None
