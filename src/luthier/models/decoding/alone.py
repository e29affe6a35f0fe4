"""Any model, through transformers' own cache: each line is read by itself, and so is as if it were alone.

For models that carry a state from token to token, or that do something else than attend through the registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.models.decoding.line import Line
from luthier.models.decoding.reader import Portion
from luthier.models.decoding.speaking import speaking
from luthier.models.sequence import plain_model
from luthier.models.soft import SoftPrompt, cache_name, soft_prompt


@dataclass
class _Place:
    """A line's own cache, and the virtual tokens before it."""

    room: int
    soft: SoftPrompt
    cache: Any = None


class Alone:
    """Reads lines one by one."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._whole, self._model = model, plain_model(model)
        self._free = tokens
        self._device = next(self._model.parameters()).device
        self._cache_name = cache_name(self._model)
        self._takes_positions = "position_ids" in inspect.signature(self._model.forward).parameters
        self._stateful = bool(getattr(self._model, "_is_stateful", False))

    cached = 0

    def open(self, line: Line) -> bool:
        """Make room for all tokens that a line may have; False while there is none."""
        if line.end > self._free:
            return False
        with speaking(self._whole, line.ask.adapter):
            line.place = _Place(line.end, soft_prompt(self._whole))
        self._free -= line.end
        return True

    def portions(self, waiting: Sequence[Line], budget: int) -> list[Portion]:
        """One prompt, wholly: a state may not be read in parts."""
        return [Portion(line, len(line.ids) - line.read) for line in waiting[:1] if budget]

    def read(self, portions: Sequence[Portion]) -> Tensor:
        """(lines, vocab) logits after each."""
        return torch.cat([self._read(portion) for portion in portions])

    def close(self, line: Line) -> None:
        """Let a line's cache go."""
        self._free += line.place.room
        line.place = None

    def adopt(self, model: Any) -> None:
        """See other adapters over the same weights."""
        self._whole = model

    def _read(self, portion: Portion) -> Tensor:
        line, place = portion.line, portion.line.place
        ids = torch.tensor([line.ids[line.read : line.read + portion.tokens]], device=self._device)
        with speaking(self._whole, line.ask.adapter):
            told = self._begin(place, ids) if place.cache is None else {"input_ids": ids}
            end = place.soft.count + line.read + portion.tokens
            begin = end - portion.tokens
            if not line.read and not place.soft.cached:
                begin = 0
            kept: dict[str, Any] = {self._cache_name: place.cache}
            if self._takes_positions:
                kept["position_ids"] = torch.arange(begin, end, device=self._device)[None]
            seen = None if self._stateful else ids.new_ones(1, end)
            out = self._model(**told, attention_mask=seen, use_cache=True, logits_to_keep=1, **kept)
        logits: Tensor = out.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _begin(self, place: _Place, ids: Tensor) -> dict[str, Tensor]:
        """A cache with the virtual tokens' keys and values, and what is read after them."""
        from transformers import DynamicCache

        from luthier.models.roomy import with_room

        place.cache = place.soft.fill(with_room(DynamicCache(config=self._model.config)), 1)
        return place.soft.inputs(self._model, ids)
