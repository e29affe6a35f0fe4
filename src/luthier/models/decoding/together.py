"""Many lines in one pass over a model: their tokens lie one after another, and attention finds each line's own past.

Attention is plugged into transformers' registry, as it is for packs: layers stay as they are, and see one long row of
tokens with the position of each. Keys and values lie in blocks that lines share where they begin alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from luthier.models.decoding.blocks import BLOCK, Blocks, Held
from luthier.models.decoding.line import Line
from luthier.models.decoding.past import Past, Visit, attending
from luthier.models.decoding.reader import Portion
from luthier.models.decoding.speaking import speaking
from luthier.models.head import Head
from luthier.models.logprobs import decoder_of
from luthier.models.sequence import plain_model


class Together:
    """Reads many lines at once."""

    def __init__(self, model: Any, head: Head, tokens: int) -> None:
        self._whole, self._model, self._head = model, plain_model(model), head
        self._decoder = decoder_of(self._model)
        self._device = next(self._model.parameters()).device
        self._blocks = Blocks(-(-tokens // BLOCK))
        self._past = Past(self._blocks.count)

    @property
    def cached(self) -> int:
        """Tokens that would be found again."""
        return self._blocks.cached

    def open(self, line: Line) -> bool:
        """Hold all blocks that a line may need; False while there are too few."""
        held = self._blocks.hold(line.ask.adapter, line.ask.ids, line.end)
        if held is None:
            return False
        line.place = held
        line.read = line.found = len(held.known) * BLOCK
        return True

    def portions(self, waiting: Sequence[Line], budget: int) -> list[Portion]:
        """Prompts in their order, up to the budget; what another line is reading just now is waited for."""
        found: list[Portion] = []
        begun: set[Hashable] = set()
        for line in waiting:
            if line.read % BLOCK == 0:
                line.read = max(line.read, self._blocks.find(line.place, line.ask.ids))
                line.found = max(line.found, line.read) if not found else line.found
            key = self._blocks.next(line.place, line.ask.ids)
            count = min(budget, len(line.ids) - line.read)
            if count and key not in begun:
                begun.add(key)
                found.append(Portion(line, count))
                budget -= count
        return found

    @torch.no_grad()
    def read(self, portions: Sequence[Portion]) -> Tensor:
        """(lasts, vocab) logits after the lines that are wholly read; each adapter's lines in a pass of their own."""
        logits: dict[int, Tensor] = {}
        groups: dict[str | None, list[int]] = {}
        for at, portion in enumerate(portions):
            groups.setdefault(portion.line.ask.adapter, []).append(at)
        for adapter, places in groups.items():
            own = [portions[at] for at in places]
            with speaking(self._whole, adapter):
                rows = self._pass(own)
            lasts = [at for at in places if portions[at].last]
            logits |= dict(zip(lasts, rows, strict=True))
        for line, count in portions:
            self._blocks.keep(line.place, line.ids[: line.read + count])
        width = self._head.linear.weight.shape[0]
        return torch.stack([logits[at] for at in sorted(logits)]) if logits else torch.empty(0, width)

    def close(self, line: Line) -> None:
        """Give a line's blocks back; what was read stays to be found while there is room."""
        held: Held = line.place
        self._blocks.release(held)
        line.place = None

    def _pass(self, portions: Sequence[Portion]) -> Tensor:
        """(lasts, vocab) logits of portions that the same adapter reads."""
        ids = [one for line, count in portions for one in line.ids[line.read : line.read + count]]
        visit = Visit.of([(line.read, count, line.place.table) for line, count in portions], self._device)
        with ExitStack() as stack:
            stack.enter_context(attending(self._model, self._past, visit))
            states: Tensor = self._decoder(
                input_ids=torch.tensor([ids], device=self._device), position_ids=visit.positions[None], use_cache=False
            ).last_hidden_state
        ends = torch.tensor(visit.ends, device=self._device)
        lasts = torch.tensor([portion.last for portion in portions], device=self._device)
        return self._head.logits(states[0].index_select(0, ends[lasts]))
