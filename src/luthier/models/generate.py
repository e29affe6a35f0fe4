"""Writing text: greedy or sampled, many prompts at once or one as a stream; and scoring given answers.

What all prompts of a batch share at their beginning is read once. Each prompt draws from a random stream of its own, so
that what is written does not depend on who else is in the batch, beyond the rounding of sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import DataError
from luthier.models.load import Loaded
from luthier.models.logprobs import logprobs, reading
from luthier.models.pack import Row, common, packs
from luthier.models.prepacked import prepacked
from luthier.models.sequence import names_of, plain_model, refuse_sequence
from luthier.models.soft import SoftPrompt, cache_name, soft_prompt

TOKENS = 16_384
"""Tokens that a batch may hold, prompts and answers together: what bounds its key-value cache."""
WORTH_PACKING = 8
"""From so many new tokens on, weights are brought into the processor's order beforehand."""
PACK_TOKENS = 4096
"""Tokens read at once when answers are scored."""
OPTIONS_SHARE_FROM = 1
"""Options are short and often begin alike: every token that they share is read once."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 always takes the likeliest."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this share are drawn from."""
    seed: int = 0


GREEDY = Sampling()
Stop = Collection[int] | Callable[[Sequence[int]], bool]
"""Ids after which nothing is written, or what tells from the ids written so far whether they are enough."""


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
    each prompt draws from; by default its place among the prompts.
    """
    written: list[list[int]] = [[] for _ in prompts]
    done = 0
    model, soft = _opened(loaded)
    for group in _groups(model, prompts, soft.count, max_new_tokens, tokens):
        own = None if streams is None else [streams[at] for at in group]
        batch = _Batch(model, soft, [prompts[at] for at in group], sampling, group, own)
        with torch.no_grad(), prepacked(model, len(group) if max_new_tokens >= WORTH_PACKING else 1):
            for ids in batch.run(max_new_tokens, stop):
                for at, token in ids:
                    written[at].append(token)
        done += len(group)
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
    batch = _Batch(*_opened(loaded), [prompt], sampling, [0])
    for ids in batch.run(max_new_tokens, stop):
        yield from (token for _, token in ids)


def score_options(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    tokens: int = PACK_TOKENS,
) -> list[list[float]]:
    """For each prompt, the summed log-probability of each of its options; shared beginnings are read once."""
    refuse_sequence(plain_model(model))
    rows = [
        Row([*prompt, *option], [0.0] * len(prompt) + [1.0] * len(option), f"{at}:{number}")
        for at, (prompt, own) in enumerate(zip(prompts, options, strict=True))
        for number, option in enumerate(own)
    ]
    sums: dict[str, float] = {}
    with torch.no_grad():
        for pack in packs(rows, tokens, OPTIONS_SHARE_FROM):
            found = logprobs(model, pack).double().cpu()
            totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, pack.path.cpu(), found)
            sums |= dict(zip(pack.keys, totals.tolist(), strict=True))
    return [[sums[f"{at}:{number}"] for number in range(len(own))] for at, own in enumerate(options)]


def _opened(loaded: Loaded) -> tuple[Any, SoftPrompt]:
    refuse_sequence(plain_model(loaded.model))
    with torch.no_grad():
        return plain_model(loaded.model), soft_prompt(loaded.model)


def label_scores(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], *, tokens: int = PACK_TOKENS
) -> list[list[float]]:
    """For each prompt, the log-probability of each output of a model with a sequence head."""
    outputs = torch.arange(len(names_of(plain_model(model))))
    rows = [Row([*prompt, 0], [0.0] * len(prompt) + [1.0], str(at)) for at, prompt in enumerate(prompts)]
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for made in packs(rows, tokens):
            asked = replace(made, choices=outputs.expand(made.rows, -1))
            scores = logprobs(model, asked)[:, 1:].double().cpu()
            found |= dict(zip(made.keys, scores.tolist(), strict=True))
    return [found[str(at)] for at in range(len(prompts))]


def _groups(
    model: Any, prompts: Sequence[Sequence[int]], virtual: int, max_new_tokens: int, tokens: int
) -> Iterator[list[int]]:
    """Numbers of prompts to be answered together: of like length, and of the same where padding would be seen."""
    context = (getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 40) - virtual
    alone, even = _is_stateful(model), not _can_pad(model)
    group: list[int] = []
    for at in sorted(range(len(prompts)), key=lambda at: len(prompts[at])):
        length = len(prompts[at])
        if not 0 < length < context:
            raise DataError(f"prompt {at} has {length} tokens; the model reads 1 to {context - 1}")
        room = not alone and (len(group) + 1) * (virtual + length + max_new_tokens) <= tokens
        if group and (not room or (even and length != len(prompts[group[0]]))):
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def _can_pad(model: Any) -> bool:
    """Whether padding in front is invisible: no state that runs through it, no window that it would fill."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return reading(model).packed and not windowed


def _is_stateful(model: Any) -> bool:
    """Whether a state runs from token to token: such a model answers prompts one at a time, and wants no mask."""
    return bool(getattr(model, "_is_stateful", False))


class _Batch:
    """Prompts that are answered together, all after the same virtual tokens when there are any."""

    def __init__(
        self,
        model: Any,
        soft: SoftPrompt,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        names: Sequence[int],
        streams: Sequence[int] | None = None,
    ) -> None:
        self._model, self._soft, self._prompts, self._sampling = model, soft, prompts, sampling
        self._names = list(names)
        self._device = next(model.parameters()).device
        self._draws = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + one) for one in streams or names]
        self._cache_name = cache_name(model)

    @torch.no_grad()
    def run(self, limit: int, stop: Stop) -> Iterator[list[tuple[int, int]]]:
        """At each step, the token that each unfinished prompt goes on with, by the prompt's name."""
        logits, cache, mask = self._read()
        lengths = torch.tensor([self._soft.count + len(prompt) for prompt in self._prompts], device=self._device)
        going = list(range(len(self._prompts)))
        written: list[list[int]] = [[] for _ in going]
        for count in range(limit):
            chosen = self._choose(logits, going)
            yield [(self._names[at], token) for at, token in zip(going, chosen, strict=True)]
            for at, token in zip(going, chosen, strict=True):
                written[at].append(token)
            left = [place for place, at in enumerate(going) if not _is_enough(written[at], stop)]
            if not left or count + 1 == limit:
                return
            if len(left) < len(going):
                places = torch.tensor(left, device=self._device)
                cache.batch_select_indices(places)
                mask, lengths = mask[places], lengths[places]
                going = [going[place] for place in left]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            last = torch.tensor([[chosen[place]] for place in left], device=self._device)
            logits = self._forward({"input_ids": last}, lengths[:, None], mask, cache)
            lengths = lengths + 1

    def _read(self) -> tuple[Tensor, Any, Tensor]:
        """Logits after each prompt, the filled cache and its mask; the common beginning is read once."""
        cache, begun = self._begin()
        tails = [list(prompt[begun - self._soft.count :]) for prompt in self._prompts]
        longest = max(map(len, tails))
        ids = torch.tensor([[0] * (longest - len(tail)) + tail for tail in tails], device=self._device)
        own = torch.tensor([[0] * (longest - len(tail)) + [1] * len(tail) for tail in tails], device=self._device)
        mask = torch.cat([own.new_ones(len(tails), begun), own], 1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, begun:]
        return self._forward({"input_ids": ids}, positions, mask, cache), cache, mask

    def _begin(self) -> tuple[Any, int]:
        """A cache with what stands before all prompts, virtual tokens and what they share, and how much that is."""
        from transformers import DynamicCache

        from luthier.models.roomy import with_room

        soft, many = self._soft, len(self._prompts) > 1
        cache = soft.fill(with_room(DynamicCache(config=self._model.config)), 1)
        shared = min(common(self._prompts[0], prompt[:-1]) for prompt in self._prompts) if many else 0
        begun = soft.count + shared
        if shared or soft.embeddings is not None:
            ids = torch.tensor([self._prompts[0][:shared]], dtype=torch.int64, device=self._device)
            positions = torch.arange(soft.count if soft.cached else 0, begun, device=self._device)[None]
            self._forward(soft.inputs(self._model, ids), positions, ids.new_ones(1, begun), cache)
        if begun and many:
            cache.batch_repeat_interleave(len(self._prompts))
        return cache, begun

    def _forward(self, told: dict[str, Tensor], positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """(rows, vocab) logits after the last token of each row."""
        kept: dict[str, Any] = {self._cache_name: cache}
        if "position_ids" in inspect.signature(self._model.forward).parameters:
            kept["position_ids"] = positions
        seen = None if _is_stateful(self._model) else mask
        out = self._model(**told, attention_mask=seen, use_cache=True, logits_to_keep=1, **kept)
        return out.logits[:, -1].float()  # type: ignore[no-any-return]  # the model is anybody's

    def _choose(self, logits: Tensor, going: Sequence[int]) -> list[int]:
        if self._sampling.temperature <= 0:
            return logits.argmax(-1).tolist()
        shares = torch.softmax(logits / self._sampling.temperature, -1).cpu()
        return [draw(row, self._sampling.top_p, self._draws[at]) for row, at in zip(shares, going, strict=True)]


def _is_enough(ids: Sequence[int], stop: Stop) -> bool:
    return stop(ids) if callable(stop) else ids[-1] in stop


def draw(shares: Tensor, top_p: float, chance: torch.Generator) -> int:
    """One token, from the likeliest ones that together have a share of `top_p`.

    Each token keeps its place while it is drawn, so that two of nearly the same share, which stand in another order
    when their last bits differ, are not taken for each other.
    """
    ordered, tokens = shares.sort(descending=True)
    kept = torch.zeros_like(shares).scatter(0, tokens, ordered * (ordered.cumsum(0) - ordered < top_p))
    return int(torch.multinomial(kept, 1, generator=chance))
