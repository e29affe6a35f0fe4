"""The plan of a pack's attention: which tokens see which, as a dense mask and as blocks over shared keys.

A token sees the tokens of its own segment up to itself, and all tokens of the segments above it. A block is a run of
query rows that see the same keys whole (`shared`) and, beside them, some of one another's: a piece of a long
segment, or some small subtrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from luthier.models.pack import Pack

Kept = TypeVar("Kept")
CHUNK = 128
"""Query rows of one long segment that are computed together: a causal square wastes half of itself."""
TOGETHER = 96
"""Sibling subtrees of up to this many tokens in all are computed together."""


@dataclass(frozen=True, eq=False)
class Block:
    """Query rows with the keys that all of them see, and which of each other's they see."""

    rows: slice
    shared: tuple[slice, ...]
    sees: Tensor  # (rows, rows) bool

    @property
    def count(self) -> int:
        """Query rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def seen(self) -> int:
        """How many shared keys."""
        return sum(int(span.stop - span.start) for span in self.shared)


class Plan:
    """Everything about one pack that its attention layers need, computed once and shared by all of them."""

    def __init__(self, pack: Pack, first: int = 0) -> None:
        """Nobody asks what tokens before `first` see: a path may leave their outputs as they come."""
        self.pack = pack
        self.first = first
        self.blocks = tuple(_blocks(pack))
        self._dense: dict[int | None, Tensor] = {}
        self._bias: dict[tuple[int | None, torch.dtype], list[tuple[Tensor | None, Tensor]]] = {}
        self._kept: dict[int | None, Any] = {}

    def dense(self, window: int | None) -> Tensor:
        """(T, T) bool: whether the token of a row sees the token of a column."""
        if window not in self._dense:
            self._dense[window] = _dense(self.pack, window).to(self.pack.ids.device)
        return self._dense[window]

    def bias(self, window: int | None, dtype: torch.dtype) -> list[tuple[Tensor | None, Tensor]]:
        """For each block, what is added to scores against shared keys (None: nothing) and against own keys."""
        key = (window, dtype)
        if key not in self._bias:
            positions = self.pack.positions.cpu()
            self._bias[key] = [_bias(block, positions, window, dtype) for block in self.blocks]
        return self._bias[key]

    def kept(self, window: int | None, make: Callable[[Plan, int | None], Kept]) -> Kept:
        """What a path makes of the plan for all layers of a window, made once."""
        if window not in self._kept:
            self._kept[window] = make(self, window)
        found: Kept = self._kept[window]
        return found

    @property
    def scores(self) -> int:
        """How many scores one head computes in blocks."""
        return sum(block.count * (block.seen + block.count) for block in self.blocks)


def _dense(pack: Pack, window: int | None) -> Tensor:
    mask = torch.zeros(pack.tokens, pack.tokens, dtype=torch.bool)
    parent, starts = pack.parent.tolist(), pack.starts.tolist()
    for segment, above in enumerate(parent):
        own = slice(starts[segment], starts[segment + 1])
        if above >= 0:
            mask[own] = mask[starts[above + 1] - 1]
        mask[own, own] = torch.ones(own.stop - own.start, own.stop - own.start, dtype=torch.bool).tril()
    if window is not None:
        positions = pack.positions.cpu()
        mask &= positions[:, None] - positions[None, :] < window
    return mask


def _blocks(pack: Pack) -> Iterator[Block]:
    """Blocks in the order of the tokens; together they hold every token once."""
    tree = _Tree(pack.parent.tolist(), pack.starts.tolist())
    segment = 0
    while segment < len(tree.parent):
        end = _siblings(segment, tree)
        if end > segment:
            yield _together(segment, end, tree)
            segment = end
        else:
            yield from _chunks(segment, tree)
            segment += 1


class _Tree:
    """The forest of a pack: for each segment what is above it, and where its subtree ends."""

    def __init__(self, parent: list[int], starts: list[int]) -> None:
        self.parent, self.starts = parent, starts
        self.above: list[tuple[slice, ...]] = []
        self.end = [segment + 1 for segment in range(len(parent))]
        for segment, mother in enumerate(parent):
            assert mother < segment, "a parent stands before its children"
            self.above.append(merged((*self.above[mother], self.span(mother))) if mother >= 0 else ())
        for segment in reversed(range(len(parent))):
            if parent[segment] >= 0:
                self.end[parent[segment]] = max(self.end[parent[segment]], self.end[segment])

    def span(self, segment: int) -> slice:
        """Tokens of one segment."""
        return slice(self.starts[segment], self.starts[segment + 1])


def _siblings(segment: int, tree: _Tree) -> int:
    """Where the small subtrees of one parent that begin at a segment and are computed together end."""
    at, first = segment, tree.starts[segment]
    while at < len(tree.parent) and tree.parent[at] == tree.parent[segment]:
        if tree.starts[tree.end[at]] - first > TOGETHER:
            break
        at = tree.end[at]
    return at


def _together(segment: int, end: int, tree: _Tree) -> Block:
    """One block of all segments up to `end`: whole subtrees of one parent."""
    first, count = tree.starts[segment], tree.starts[end] - tree.starts[segment]
    sees = torch.zeros(count, count, dtype=torch.bool)
    for at in range(segment, end):
        rows = slice(tree.starts[at] - first, tree.starts[at + 1] - first)
        if tree.parent[at] != tree.parent[segment]:
            sees[rows] = sees[tree.starts[tree.parent[at] + 1] - 1 - first]
        sees[rows, rows] = _causal(rows.stop - rows.start)
    return Block(slice(first, first + count), tree.above[segment], sees)


def _chunks(segment: int, tree: _Tree) -> Iterator[Block]:
    """A long segment in pieces: each sees what is above, the pieces before it, and itself causally."""
    own = tree.span(segment)
    for begin in range(own.start, own.stop, CHUNK):
        end = min(begin + CHUNK, own.stop)
        before = (slice(own.start, begin),) if begin > own.start else ()
        shared = merged((*tree.above[segment], *before))
        yield Block(slice(begin, end), shared, _causal(end - begin))


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def _bias(block: Block, positions: Tensor, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    if window is None:
        return None, _minus_infinity(~block.sees, dtype)
    here = positions[block.rows]
    own = _minus_infinity(~(block.sees & (here[:, None] - here[None, :] < window)), dtype)
    if not block.shared:
        return None, own
    keys = torch.cat([positions[span] for span in block.shared])
    hidden = here[:, None] - keys[None, :] >= window
    return (_minus_infinity(hidden, dtype) if bool(hidden.any()) else None), own


def _minus_infinity(where: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(where.shape, dtype=dtype).masked_fill_(where, float("-inf"))


def merged(spans: Sequence[slice]) -> tuple[slice, ...]:
    """Neighbouring spans as one, so that keys need not be copied together."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return tuple(found)
