"""The paged KV cache and its prefix tree.

A block holds the keys and values of `BLOCK` tokens. A full block is indexed by all tokens up to its end, and a sequence
that begins with the same tokens reuses it. Unused blocks stay while there is room and are evicted in LRU order.

`PreallocatedLayer` is a layer's cache for one sequence with spare room, so that a new token is written without a copy
of the earlier ones.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from luthier.models.attention import build_attention_params
from luthier.models.attention.backends import AttentionParams
from luthier.models.kernels import linear_ops
from luthier.models.kernels.linear_ops import RowKernels, get_row_kernels

BLOCK = 16
"""Tokens of a block."""


@dataclass(eq=False)
class CachedBlock:
    """A full block of the KV cache that later sequences with the same prefix can reuse."""

    key: tuple[object, ...]
    block: int
    parent: CachedBlock | None
    users: int = 0
    children: int = 0


@dataclass(eq=False)
class SequenceBlocks:
    """The block table of one sequence: shared prefix blocks, then its own."""

    root: Hashable
    known: list[CachedBlock] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    table: array[int] = field(default_factory=lambda: array("i"))
    """All its blocks in the order of its tokens."""


class BlockAllocator:
    """Allocates the blocks of a cache."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._nodes: dict[tuple[object, ...], CachedBlock] = {}
        self._idle: OrderedDict[CachedBlock, None] = (
            OrderedDict()
        )  # known blocks that nobody uses, longest unused first

    @property
    def cached(self) -> int:
        """Tokens in the prefix cache."""
        return len(self._nodes) * BLOCK

    def hold(self, root: Hashable, ids: Sequence[int], tokens: int) -> SequenceBlocks | None:
        """Allocate blocks for a sequence of `tokens` tokens that begins with `ids`, reusing cached ones; None while
        there is no room.
        """
        sequence_blocks = SequenceBlocks(root)
        self.find(sequence_blocks, ids)
        needed = -(-tokens // BLOCK) - len(sequence_blocks.known)
        if needed > len(self._free) + len(self._idle):
            self.release(sequence_blocks)
            return None
        sequence_blocks.own = [self._take() for _ in range(needed)]
        sequence_blocks.table = array("i", [*(node.block for node in sequence_blocks.known), *sequence_blocks.own])
        return sequence_blocks

    def find(self, held: SequenceBlocks, ids: Sequence[int]) -> int:
        """Reuse cached blocks for more of a sequence's ids, if all its blocks so far are cached; returns the number of
        tokens.

        The last id is never reused: its logits are needed for the next token.
        """
        while (len(held.known) + 1) * BLOCK < len(ids):
            node = self._nodes.get(self._key(held, ids))
            if node is None:
                break
            if held.own:
                self._free.append(held.own.pop(0))
                held.table[len(held.known)] = node.block
            self._acquire(node)
            held.known.append(node)
        return len(held.known) * BLOCK

    def next(self, held: SequenceBlocks, ids: Sequence[int]) -> Hashable:
        """Return the key of a sequence's next block."""
        return self._key(held, ids)

    def keep(self, held: SequenceBlocks, ids: Sequence[int]) -> None:
        """Add a sequence's full blocks to the prefix cache; `ids` are those that were read."""
        while (len(held.known) + 1) * BLOCK <= len(ids):
            key, block = self._key(held, ids), held.own.pop(0)
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = CachedBlock(key, block, held.known[-1] if held.known else None)
                if node.parent is not None:
                    node.parent.children += 1
            else:  # somebody else was quicker, with the same numbers
                self._free.append(block)
                held.table[len(held.known)] = node.block
            self._acquire(node)
            held.known.append(node)

    def release(self, held: SequenceBlocks) -> None:
        """Free a sequence's blocks; cached ones stay for reuse."""
        self._free += held.own
        for node in reversed(held.known):  # children before their parents: leaves go first
            node.users -= 1
            if not node.users:
                self._idle[node] = None
        held.own, held.known = [], []

    def forget(self) -> None:
        """Clear the prefix cache after a change of weights; blocks in use stay."""
        while self._idle:
            self._evict(next(iter(self._idle)))
        for node in self._nodes.values():
            node.key = ()
        self._nodes.clear()

    def _key(self, held: SequenceBlocks, ids: Sequence[int]) -> tuple[object, ...]:
        at = len(held.known) * BLOCK
        above = held.known[-1] if held.known else held.root
        return (above, *ids[at : at + BLOCK])

    def _acquire(self, node: CachedBlock) -> None:
        self._idle.pop(node, None)
        node.users += 1

    def _take(self) -> int:
        if not self._free:
            self._evict(next(cached_block for cached_block in self._idle if not cached_block.children))
        return self._free.pop()

    def _evict(self, node: CachedBlock) -> None:
        del self._idle[node]
        self._nodes.pop(node.key, None)
        if node.parent is not None:
            node.parent.children -= 1
        self._free.append(node.block)


class ForwardBatchPart(NamedTuple):
    """One sequence's share of a forward batch: cached tokens, new tokens and its block table."""

    read: int
    """Number of tokens read before."""
    new: int
    """Number of tokens read now."""
    table: array[int]
    """Its blocks."""


@dataclass(frozen=True, eq=False)
class ForwardBatch:
    """T new tokens of several sequences that are read in one pass."""

    parts: Sequence[ForwardBatchPart]
    device: torch.device

    @cached_property
    def ends(self) -> list[int]:
        """Index of the last new token of each sequence."""
        return [total - 1 for total in accumulate(part.new for part in self.parts)]

    @cached_property
    def positions(self) -> Tensor:
        """(T,) position of each new token in its sequence."""
        return torch.cat([torch.arange(read, read + count) for read, count, _ in self.parts]).to(self.device)

    @cached_property
    def tables(self) -> list[Tensor]:
        """The blocks of each sequence that its tokens so far occupy."""
        return [
            torch.tensor(table[: -(-(read + count) // BLOCK)], device=self.device) for read, count, table in self.parts
        ]

    @cached_property
    def blocks(self) -> Tensor:
        """(T,) the block of each new token's keys and values."""
        blocks = [table[at // BLOCK] for read, count, table in self.parts for at in range(read, read + count)]
        return torch.tensor(blocks, device=self.device)

    @cached_property
    def laid_out(self) -> linear_ops.ForwardBatchStruct:
        """The batch layout as a C struct."""
        return linear_ops.ForwardBatchStruct.of(self.parts)


class KVCache:
    """The paged KV cache of every layer: keys (blocks, key heads, d, BLOCK) and values (blocks, key heads, BLOCK, d' or
    more)."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.attention_params: dict[int, AttentionParams] = {}
        """How each layer attends, as far as it was seen."""

    def of(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer; `key` and `value` (…, key heads, d) give shape and dtype."""
        if layer not in self._kept:
            heads, padded = key.shape[-2], -(-value.shape[-1] // BLOCK) * BLOCK
            self._kept[layer] = (
                key.new_empty(self._blocks, heads, key.shape[-1], BLOCK),
                value.new_empty(self._blocks, heads, BLOCK, padded),
            )
        return self._kept[layer]


class KVCacheAttention(NamedTuple):
    """Attention over the paged KV cache of each sequence."""

    past: KVCache
    visit: ForwardBatch

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None, kwargs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """Store the new keys and values of a layer, and attend to all of each sequence."""
        if mask is not None:
            raise RuntimeError("this attention is only for a decoder")
        layer: int = module.layer_idx  # type: ignore[assignment]
        params = self.past.attention_params[layer] = build_attention_params(query, scaling, kwargs)
        new = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)  # (T, heads, d) each
        kernels = get_row_kernels() if query.device.type == "cpu" and query.dtype in _WIDENED else None
        look = kv_cache_attention_torch if kernels is None else build_kernel_attention(kernels)
        return look(new, self.past, layer, self.visit, params)[None].to(query.dtype)


_WIDENED = (torch.float32, torch.bfloat16, torch.float16)
New = tuple[Tensor, Tensor, Tensor]


def build_kernel_attention(kernels: RowKernels) -> Callable[[New, KVCache, int, ForwardBatch, AttentionParams], Tensor]:
    """Build the attention over the paged KV cache that uses the compiled CPU kernels: (T, heads, d')."""

    def look(new: New, past: KVCache, layer: int, visit: ForwardBatch, params: AttentionParams) -> Tensor:
        query, key, value = (entry.float().contiguous() for entry in new)
        sinks = None if params.sinks is None else params.sinks.float().contiguous()
        params_struct = linear_ops.AttentionParamsStruct(
            key_heads=key.shape[1],
            heads=query.shape[1],
            d=query.shape[2],
            d_value=value.shape[2],
            window=params.window or 0,
            scaling=params.scaling,
            softcap=params.softcap or 0,
            sinks=None if sinks is None else sinks.data_ptr(),
        )
        return kernels.past(visit.laid_out, params_struct, query, key, value, past.of(layer, key, value))

    return look


def kv_cache_attention_torch(
    new: New, past: KVCache, layer: int, visit: ForwardBatch, params: AttentionParams
) -> Tensor:
    """Compute attention over the paged KV cache in torch, sequence by sequence."""
    query, key, value = new
    keys, values = past.of(layer, key, value)
    offsets = visit.positions % BLOCK
    keys[visit.blocks, :, :, offsets] = key
    values[visit.blocks, :, offsets, : value.shape[-1]] = value
    begin, found = 0, []
    for table, part, end in zip(visit.tables, visit.parts, visit.ends, strict=True):
        own = query[begin : end + 1].transpose(0, 1)
        found.append(_look(own, keys[table], values[table][..., : value.shape[-1]], part.read, params))
        begin = end + 1
    return torch.cat(found)


def _look(query: Tensor, keys: Tensor, values: Tensor, read: int, params: AttentionParams) -> Tensor:
    """Attend from (heads, n, d) queries of one sequence to its blocks, of which `read` tokens came before; (n, heads,
    d).
    """
    heads, count, width = query.shape
    length = read + count
    key = keys.permute(1, 2, 0, 3).flatten(2)[..., :length]  # (key heads, d, seen)
    value = values.transpose(0, 1).flatten(1, 2)[:, :length]
    groups = heads // key.shape[0]
    wide = torch.promote_types(query.dtype, torch.float32)
    lines = query.reshape(key.shape[0], groups * count, width)
    scores = (lines.to(wide) @ key.to(wide)).view(heads, count, length) * params.scaling
    if params.softcap is not None:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    own = torch.arange(read, length, device=query.device)[:, None]
    other = torch.arange(length, device=query.device)
    hidden = other > own
    if params.window is not None:
        hidden = hidden | (own - other >= params.window)
    scores = scores.masked_fill(hidden, float("-inf"))
    if params.sinks is not None:
        sinks = params.sinks.to(wide).view(heads, 1, 1).expand(heads, count, 1)
        shares = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]
    else:
        shares = torch.softmax(scores, -1)
    found = shares.view(key.shape[0], groups * count, length) @ value.to(wide)
    return found.view(heads, count, -1).transpose(0, 1)


ROOM = 64
"""Spare tokens whenever a layer's cache is reallocated."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer of `DynamicCache` whose keys and values are views of larger tensors."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, tokens, d) keys and values; return all."""
        if not self.is_initialized or not self.keys.numel():
            return super().update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]
        have, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if not self._has_room(end):
            self._room = _grow(self.keys, end + ROOM), _grow(self.values, end + ROOM)
        assert self._room is not None
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, have:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        """Return whether the current states are views of the allocated tensors, which are large enough."""
        if self._room is None or self._room[0].shape[-2] < end or self._room[0].shape[0] != self.keys.shape[0]:
            return False
        return all(
            mine.data_ptr() == room.data_ptr() for mine, room in zip((self.keys, self.values), self._room, strict=True)
        )


def preallocate_cache(cache: DynamicCache) -> DynamicCache:
    """Preallocate the plain layers of an empty cache; others (sliding windows, states) stay as they are."""
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = PreallocatedLayer
    return cache


def _grow(states: Tensor, tokens: int) -> Tensor:
    room = states.new_empty(*states.shape[:2], tokens, states.shape[-1])
    room[:, :, : states.shape[-2]] = states
    return room
