"""Many lines in one pass over a model: their tokens lie one after another, and attention finds each line's own past.

Plain decoders are read by the kernels alone. In others attention is plugged into transformers' registry, as it is for
packs: layers stay as they are, and see one long row of tokens with the position of each. Keys and values lie in blocks
that lines share where they begin alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.models.decoding.blocks import BLOCK, Blocks, Held
from luthier.models.decoding.lean import Lean
from luthier.models.decoding.line import Line
from luthier.models.decoding.past import Part, Past, Visit
from luthier.models.decoding.plugged import Plugged
from luthier.models.decoding.reader import Portion
from luthier.models.decoding.recognised import lean_of
from luthier.models.decoding.speaking import speaking
from luthier.models.head import Head, shaped
from luthier.models.kernels.rows import Linear, rows_kernels
from luthier.models.sequence import plain_model


class Together:
    """Reads many lines at once."""

    def __init__(self, model: Any, head: Head, tokens: int) -> None:
        self._whole, self._model, self._head = model, plain_model(model), head
        self._device = next(self._model.parameters()).device
        self._blocks = Blocks(-(-tokens // BLOCK))
        self._past = Past(self._blocks.count)
        self._open_model()

    @property
    def cached(self) -> int:
        """Tokens that would be found again."""
        return self._blocks.cached

    def open(self, line: Line) -> bool:
        """Hold all blocks that a line may need; False while there are too few."""
        self._notice()
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
        """(lasts, vocab) logits after the lines that are wholly read."""
        self._notice()
        lean = self._lean
        if lean is not None and all(lean.knows(portion.line.ask.adapter) for portion in portions):
            logits = self._by_kernels(lean, portions)
        else:
            logits = self._by_modules(portions)
        for line, count in portions:
            self._blocks.keep(line.place, line.ids[: line.read + count])
        return logits

    def close(self, line: Line) -> None:
        """Give a line's blocks back; what was read stays to be found while there is room."""
        held: Held = line.place
        self._blocks.release(held)
        line.place = None

    def adopt(self, model: Any) -> None:
        """See other adapters over the same weights; what was read by those that stay is found again."""
        self._whole = model
        self._open_model()

    def _open_model(self) -> None:
        """Look at the model as it is now, with the adapters that are loaded."""
        self._adapters = tuple(getattr(self._whole, "peft_config", ()))
        self._parameters = list(self._model.parameters())
        self._state = self._weights()
        self._plugged = Plugged(self._model, self._past)
        self._lean: Lean | None = lean_of(self._whole, self._past)

    def _notice(self) -> None:
        """Let nothing be found again that was read with other weights, and see adapters that were loaded since."""
        if self._adapters != tuple(getattr(self._whole, "peft_config", ())):
            self._open_model()
            self._blocks.forget()
        elif (state := self._weights()) != self._state:
            self._state = state
            self._blocks.forget()

    def _weights(self) -> list[int]:
        """Where all weights lie, and how often each was changed."""
        return [number for one in self._parameters for number in (one.data_ptr(), one._version)]

    def _by_kernels(self, lean: Lean, portions: Sequence[Portion]) -> Tensor:
        ids, visit, lasts = self._laid_out(portions)
        states = lean.read(ids, visit, [portion.line.ask.adapter for portion in portions])
        return self._logits(lean.ended(states.index_select(0, lasts)))

    def _by_modules(self, portions: Sequence[Portion]) -> Tensor:
        """The lines of each adapter in a pass of their own."""
        logits: dict[int, Tensor] = {}
        groups: dict[str | None, list[int]] = {}
        for at, portion in enumerate(portions):
            groups.setdefault(portion.line.ask.adapter, []).append(at)
        for adapter, places in groups.items():
            ids, visit, lasts = self._laid_out([portions[at] for at in places])
            with speaking(self._whole, adapter):
                rows = self._logits(self._plugged.read(ids, visit).index_select(0, lasts))
            logits |= dict(zip([at for at in places if portions[at].last], rows, strict=True))
        width = self._head.linear.weight.shape[0]
        return (
            torch.stack([logits[at] for at in sorted(logits)]) if logits else torch.empty(0, width, dtype=torch.float32)
        )

    def _laid_out(self, portions: Sequence[Portion]) -> tuple[Tensor, Visit, Tensor]:
        """The new tokens of lines one after another, where each belongs, and the last tokens of whole lines."""
        ids = [one for line, count in portions for one in line.ids[line.read : line.read + count]]
        visit = Visit([Part(line.read, count, line.place.table) for line, count in portions], self._device)
        lasts = [end for end, portion in zip(visit.ends, portions, strict=True) if portion.last]
        return (
            torch.tensor(ids, device=self._device),
            visit,
            torch.tensor(lasts, dtype=torch.int64, device=self._device),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        """(N, width) hidden states to (N, vocab) logits in at least fp32, each row as it would be alone."""
        weight, kernels = self._head.linear.weight, rows_kernels()
        if kernels is None or weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
            return self._head.logits(hidden)
        told = Linear.of(weight, self._head.linear.bias)
        return shaped(kernels.product(told, hidden.float().contiguous()), self._head.shape)
