"""Attention of many lines' new tokens to all that was read of each: keys and values lie in blocks of a few tokens."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from luthier.models.attention import implemented, manner_of
from luthier.models.attention.plain import Manner
from luthier.models.decoding.blocks import BLOCK
from luthier.models.kernels import rows
from luthier.models.kernels.rows import Rows, rows_kernels

NAME = "luthier_past"


class Part(NamedTuple):
    """What one line adds to a visit."""

    read: int
    """How many of its tokens were read before."""
    new: int
    """How many are read now."""
    table: array[int]
    """Its blocks."""


@dataclass(frozen=True, eq=False)
class Visit:
    """T new tokens of several lines that are read in one pass."""

    parts: Sequence[Part]
    device: torch.device

    @cached_property
    def ends(self) -> list[int]:
        """The last new token of each line, among all new ones."""
        return [total - 1 for total in accumulate(part.new for part in self.parts)]

    @cached_property
    def positions(self) -> Tensor:
        """(T,) place of each new token in its line."""
        return torch.cat([torch.arange(read, read + count) for read, count, _ in self.parts]).to(self.device)

    @cached_property
    def tables(self) -> list[Tensor]:
        """The blocks of each line, as many as its tokens so far take."""
        return [
            torch.tensor(table[: -(-(read + count) // BLOCK)], device=self.device) for read, count, table in self.parts
        ]

    @cached_property
    def blocks(self) -> Tensor:
        """(T,) the block where the keys and values of each new token go."""
        found = [table[at // BLOCK] for read, count, table in self.parts for at in range(read, read + count)]
        return torch.tensor(found, device=self.device)

    @cached_property
    def laid_out(self) -> rows.Visit:
        """The same for the kernels."""
        return rows.Visit.of(self.parts)


class Past:
    """Keys and values of every layer: (blocks, key heads, d, BLOCK) and (blocks, key heads, BLOCK, d' or more)."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.manners: dict[int, Manner] = {}
        """How each layer attends, as far as it was seen."""

    def of(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, from examples (…, key heads, d) of both."""
        if layer not in self._kept:
            heads, padded = key.shape[-2], -(-value.shape[-1] // BLOCK) * BLOCK
            self._kept[layer] = (
                key.new_empty(self._blocks, heads, key.shape[-1], BLOCK),
                value.new_empty(self._blocks, heads, BLOCK, padded),
            )
        return self._kept[layer]


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
    layer: int = module.layer_idx  # type: ignore[assignment]
    manner = past.manners[layer] = manner_of(query, scaling, asked)
    new = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)  # (T, heads, d) each
    kernels = rows_kernels() if query.device.type == "cpu" and query.dtype in _WIDENED else None
    look = by_torch if kernels is None else by_rows(kernels)
    return look(new, past, layer, visit, manner)[None].to(query.dtype), None


_WIDENED = (torch.float32, torch.bfloat16, torch.float16)
New = tuple[Tensor, Tensor, Tensor]


def by_rows(kernels: Rows) -> Callable[[New, Past, int, Visit, Manner], Tensor]:
    """Writes new keys and values down and looks back, by the kernels: (T, heads, d')."""

    def look(new: New, past: Past, layer: int, visit: Visit, manner: Manner) -> Tensor:
        query, key, value = (one.float().contiguous() for one in new)
        sinks = None if manner.sinks is None else manner.sinks.float().contiguous()
        told = rows.Manner(
            key_heads=key.shape[1],
            heads=query.shape[1],
            d=query.shape[2],
            d_value=value.shape[2],
            window=manner.window or 0,
            scaling=manner.scaling,
            softcap=manner.softcap or 0,
            sinks=None if sinks is None else sinks.data_ptr(),
        )
        return kernels.past(visit.laid_out, told, query, key, value, past.of(layer, key, value))

    return look


def by_torch(new: New, past: Past, layer: int, visit: Visit, manner: Manner) -> Tensor:
    """The same by torch, line by line."""
    query, key, value = new
    keys, values = past.of(layer, key, value)
    offsets = visit.positions % BLOCK
    keys[visit.blocks, :, :, offsets] = key
    values[visit.blocks, :, offsets, : value.shape[-1]] = value
    begin, found = 0, []
    for table, part, end in zip(visit.tables, visit.parts, visit.ends, strict=True):
        own = query[begin : end + 1].transpose(0, 1)
        found.append(_look(own, keys[table], values[table][..., : value.shape[-1]], part.read, manner))
        begin = end + 1
    return torch.cat(found)


def _look(query: Tensor, keys: Tensor, values: Tensor, read: int, manner: Manner) -> Tensor:
    """(heads, n, d) queries of one line over its blocks, of which `read` tokens came before; (n, heads, d)."""
    heads, count, width = query.shape
    seen = read + count
    key = keys.permute(1, 2, 0, 3).flatten(2)[..., :seen]  # (key heads, d, seen)
    value = values.transpose(0, 1).flatten(1, 2)[:, :seen]
    groups = heads // key.shape[0]
    wide = torch.promote_types(query.dtype, torch.float32)
    lines = query.reshape(key.shape[0], groups * count, width)
    scores = (lines.to(wide) @ key.to(wide)).view(heads, count, seen) * manner.scaling
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
    return found.view(heads, count, -1).transpose(0, 1)


AttentionInterface.register(NAME, past_attention)
