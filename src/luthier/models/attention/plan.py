"""The plan of a pack's attention: which tokens see which, as a dense mask and as blocks over shared keys.

A token sees the tokens of its own segment up to itself, and all tokens of the segments above it. A block is a run of
query rows that see the same keys whole (`shared`) and, beside them, some of their own branch: a piece of a long
segment, or a small subtree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from luthier.models.pack import Pack

CHUNK = 128
"""Query rows of one long segment that are computed together: a causal square wastes half of itself."""
SHORT = 96
"""Sibling subtrees up to this many tokens are computed together, padded to the largest."""
TOGETHER = 1024
"""At most this many query rows of sibling subtrees in one block."""

ROUND = 8
"""Branches are padded to a multiple of this, so that few shapes occur (see `rounded`)."""


@dataclass(frozen=True, eq=False)
class Block:
    """Query rows with the keys they share, and branches that see nothing of each other."""

    rows: slice
    shared: tuple[slice, ...]
    lengths: tuple[int, ...]
    longest: int
    """How many of its own keys a row is scored against: the length of the longest branch, or a little more."""
    gather: Tensor  # (branches * longest,) rows of the block for each place of the padded branches
    scatter: Tensor  # (rows,) the padded place of each row
    sees: Tensor  # (rows, longest) bool: which tokens of its own branch a row sees

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

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.blocks = tuple(_blocks(pack))
        self._dense: dict[int | None, Tensor] = {}
        self._bias: dict[tuple[int | None, torch.dtype], list[tuple[Tensor | None, Tensor]]] = {}

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

    @property
    def scores(self) -> int:
        """How many scores one head computes in blocks."""
        return sum(block.count * (block.seen + block.longest) for block in self.blocks)


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
        ends = _small_siblings(segment, tree)
        if ends:
            yield _siblings(segment, ends, tree)
            segment = ends[-1]
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
            self.above.append(_merged((*self.above[mother], self.span(mother))) if mother >= 0 else ())
        for segment in reversed(range(len(parent))):
            if parent[segment] >= 0:
                self.end[parent[segment]] = max(self.end[parent[segment]], self.end[segment])

    def span(self, segment: int) -> slice:
        """Tokens of one segment."""
        return slice(self.starts[segment], self.starts[segment + 1])


def _small_siblings(segment: int, tree: _Tree) -> list[int]:
    """Where the small subtrees of one parent end that begin at a segment; empty when that one is large."""
    ends: list[int] = []
    at, first = segment, tree.starts[segment]
    while at < len(tree.parent) and tree.parent[at] == tree.parent[segment]:
        end = tree.starts[tree.end[at]]
        if end - tree.starts[at] > SHORT or end - first > TOGETHER:
            break
        at = tree.end[at]
        ends.append(at)
    return ends


def _siblings(segment: int, ends: list[int], tree: _Tree) -> Block:
    """One block of several subtrees."""
    bounds = [tree.starts[at] for at in (segment, *ends)]
    lengths = [end - begin for begin, end in pairwise(bounds)]
    longest = max(lengths) if len(lengths) == 1 else -(-max(lengths) // ROUND) * ROUND
    sees = torch.zeros(bounds[-1] - bounds[0], longest, dtype=torch.bool)
    branch = -1
    for at in range(segment, ends[-1]):
        child = tree.parent[at] == tree.parent[segment]
        branch += child
        own = tree.span(at)
        rows = slice(own.start - bounds[0], own.stop - bounds[0])
        column = own.start - bounds[branch]
        length = own.stop - own.start
        if not child:
            sees[rows] = sees[tree.span(tree.parent[at]).stop - 1 - bounds[0]]
        sees[rows, column : column + length] = _causal(length)
    return _block(slice(bounds[0], bounds[-1]), tree.above[segment], lengths, sees)


def _chunks(segment: int, tree: _Tree) -> Iterator[Block]:
    """A long segment in pieces: each sees what is above, the pieces before it, and itself causally."""
    own = tree.span(segment)
    for begin in range(own.start, own.stop, CHUNK):
        end = min(begin + CHUNK, own.stop)
        before = (slice(own.start, begin),) if begin > own.start else ()
        shared = _merged((*tree.above[segment], *before))
        yield _block(slice(begin, end), shared, [end - begin], _causal(end - begin))


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def _block(rows: slice, shared: tuple[slice, ...], lengths: Sequence[int], sees: Tensor) -> Block:
    longest, begin = sees.shape[1], 0
    gather = torch.zeros(len(lengths), longest, dtype=torch.int64)
    scatter: list[int] = []
    for branch, length in enumerate(lengths):
        gather[branch, :length] = torch.arange(begin, begin + length)
        scatter += range(branch * longest, branch * longest + length)
        begin += length
    return Block(rows, shared, tuple(lengths), longest, gather.reshape(-1), torch.tensor(scatter), sees)


def _bias(block: Block, positions: Tensor, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    if window is None:
        return None, _minus_infinity(~block.sees, dtype)
    here = positions[block.rows]
    branches = here[block.gather].view(-1, block.longest)  # (branches, longest) positions of own keys
    near = here[:, None] - branches[block.scatter // block.longest] < window
    own = _minus_infinity(~(block.sees & near), dtype)
    if not block.shared:
        return None, own
    keys = torch.cat([positions[span] for span in block.shared])
    hidden = here[:, None] - keys[None, :] >= window
    return (_minus_infinity(hidden, dtype) if bool(hidden.any()) else None), own


def _minus_infinity(where: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(where.shape, dtype=dtype).masked_fill_(where, float("-inf"))


def _merged(spans: Sequence[slice]) -> tuple[slice, ...]:
    """Neighbouring spans as one, so that keys need not be copied together."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return tuple(found)
