"""Attention of many lines' new tokens to all that was read of each: keys and values lie in blocks of a few tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from luthier.models.attention import implemented, manner_of
from luthier.models.attention.plain import Manner
from luthier.models.decoding.blocks import BLOCK

NAME = "luthier_past"


@dataclass(frozen=True, eq=False)
class Visit:
    """T new tokens of several lines that are read in one pass."""

    tables: tuple[Tensor, ...]
    """The blocks of each line, as many as its tokens so far take."""
    begins: tuple[int, ...]
    """How many tokens of each line were read before."""
    ends: tuple[int, ...]
    """The last new token of each line, among all new ones."""
    positions: Tensor  # (T,) place of each new token in its line
    blocks: Tensor  # (T,) where its keys and values go
    offsets: Tensor  # (T,) and where in there

    @classmethod
    def of(cls, told: Sequence[tuple[int, int, Sequence[int]]], device: torch.device) -> Visit:
        """From how many tokens of each line were read, how many are now, and its blocks."""
        positions = torch.cat([torch.arange(read, read + count) for read, count, _ in told])
        tables = tuple(torch.tensor(blocks[: -(-(read + count) // BLOCK)]) for read, count, blocks in told)
        places = [torch.arange(read, read + count) // BLOCK for read, count, _ in told]
        into = torch.cat([table[place] for table, place in zip(tables, places, strict=True)])
        return cls(
            tables=tuple(table.to(device) for table in tables),
            begins=tuple(read for read, _, _ in told),
            ends=tuple(total - 1 for total in accumulate(count for _, count, _ in told)),
            positions=positions.to(device),
            blocks=into.to(device),
            offsets=(positions % BLOCK).to(device),
        )


class Past:
    """Keys and values of every layer: (blocks, key heads, d, BLOCK) and (blocks, key heads, BLOCK, d)."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, key: Tensor, value: Tensor, visit: Visit) -> tuple[Tensor, Tensor]:
        """Put (key heads, T, d) keys and values where they belong; give all of the layer's back."""
        if layer not in self._layers:
            heads, _, width = key.shape
            self._layers[layer] = (
                key.new_empty(self._blocks, heads, width, BLOCK),
                value.new_empty(self._blocks, heads, BLOCK, value.shape[-1]),
            )
        keys, values = self._layers[layer]
        keys[visit.blocks, :, :, visit.offsets] = key.transpose(0, 1)
        values[visit.blocks, :, visit.offsets] = value.transpose(0, 1)
        return keys, values


_NOW: ContextVar[tuple[Past, Visit] | None] = ContextVar("luthier_past", default=None)


@contextmanager
def attending(model: Any, past: Past, visit: Visit) -> Iterator[None]:
    """Let a model's attention layers look back on what was read of each line."""
    token = _NOW.set((past, visit))
    try:
        with implemented(model, NAME):
            yield
    finally:
        _NOW.reset(token)


def past_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """What the registry calls: queries (1, heads, T, d) to outputs (1, T, heads, d)."""
    now = _NOW.get()
    if now is None or attention_mask is not None:
        raise RuntimeError("this attention is only for a decoder")
    past, visit = now
    keys, values = past.write(int(module.layer_idx), key[0], value[0], visit)  # type: ignore[arg-type]
    manner = manner_of(query, scaling, asked)
    begin, parts = 0, []
    for table, read, end in zip(visit.tables, visit.begins, visit.ends, strict=True):
        parts.append(_look(query[0, :, begin : end + 1], keys[table], values[table], read, manner))
        begin = end + 1
    return torch.cat(parts)[None], None


def _look(query: Tensor, keys: Tensor, values: Tensor, read: int, manner: Manner) -> Tensor:
    """(heads, n, d) queries of one line over its blocks, of which `read` tokens came before; (n, heads, d)."""
    heads, count, width = query.shape
    seen = read + count
    key = keys.permute(1, 2, 0, 3).flatten(2)[..., :seen]  # (key heads, d, seen)
    value = values.transpose(0, 1).flatten(1, 2)[:, :seen]
    groups = heads // key.shape[0]
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = query.reshape(key.shape[0], groups * count, width)
    scores = (rows.to(wide) @ key.to(wide)).view(heads, count, seen) * manner.scaling
    if manner.softcap is not None:
        scores = torch.tanh(scores / manner.softcap) * manner.softcap
    own = torch.arange(read, seen, device=query.device)[:, None]
    other = torch.arange(seen, device=query.device)
    hidden = other > own
    if manner.window is not None:
        hidden = hidden | (own - other >= manner.window)
    scores = scores.masked_fill(hidden, float("-inf"))
    if manner.sinks is not None:
        sinks = manner.sinks.to(wide).view(heads, 1, 1).expand(heads, count, 1)
        shares = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]
    else:
        shares = torch.softmax(scores, -1)
    found = shares.view(key.shape[0], groups * count, seen) @ value.to(wide)
    return found.view(heads, count, -1).transpose(0, 1).to(query.dtype)


AttentionInterface.register(NAME, past_attention)
