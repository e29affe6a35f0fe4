"""The plan of a pack's attention: which tokens see which, as a dense mask and as blocks over shared keys.

A token sees the tokens of its own segment up to itself, and all tokens of the segments above it. A block is a run of
query rows that see the same keys whole (`shared`) and, beside them, their own branch causally.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.models.pack import Pack

CHUNK = 128
"""Query rows of one long segment that are computed together: a causal square wastes half of itself."""
SHORT = 96
"""Sibling branches up to this long are computed together, padded to the longest."""
TOGETHER = 1024
"""At most this many query rows of sibling branches in one block."""


@dataclass(frozen=True, eq=False)
class Block:
    """Query rows with the keys they share and the branches that each see only themselves."""

    rows: slice
    shared: tuple[slice, ...]
    lengths: tuple[int, ...]
    gather: Tensor  # (branches * longest,) rows of the block for each place of the padded branches
    scatter: Tensor  # (rows,) the padded place of each row

    @property
    def count(self) -> int:
        """Query rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def longest(self) -> int:
        """Length of its longest branch: how many of its own keys a row is scored against."""
        return max(self.lengths)

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
    parent, starts = pack.parent.tolist(), pack.starts.tolist()
    above: list[tuple[slice, ...]] = []
    for segment, mother in enumerate(parent):
        assert mother < segment, "a parent stands before its children"
        above.append(_merged((*above[mother], _span(mother, starts))) if mother >= 0 else ())
    segment = 0
    while segment < len(parent):
        siblings = _short_siblings(segment, parent, starts)
        if siblings:
            yield _block(slice(starts[segment], starts[segment + len(siblings)]), above[segment], siblings)
            segment += len(siblings)
        else:
            yield from _chunks(_span(segment, starts), above[segment])
            segment += 1


def _short_siblings(segment: int, parent: list[int], starts: list[int]) -> list[int]:
    """Lengths of the short children of one parent that begin at a segment; empty when that one is long."""
    lengths: list[int] = []
    for at in range(segment, len(parent)):
        length = starts[at + 1] - starts[at]
        if parent[at] != parent[segment] or length > SHORT or sum(lengths) + length > TOGETHER:
            break
        lengths.append(length)
    return lengths


def _chunks(own: slice, above: tuple[slice, ...]) -> Iterator[Block]:
    """A long segment in pieces: each sees what is above, the pieces before it, and itself causally."""
    for begin in range(own.start, own.stop, CHUNK):
        end = min(begin + CHUNK, own.stop)
        before = (slice(own.start, begin),) if begin > own.start else ()
        yield _block(slice(begin, end), _merged((*above, *before)), [end - begin])


def _block(rows: slice, shared: tuple[slice, ...], lengths: Sequence[int]) -> Block:
    longest, begin = max(lengths), 0
    gather = torch.zeros(len(lengths), longest, dtype=torch.int64)
    scatter: list[int] = []
    for branch, length in enumerate(lengths):
        gather[branch, :length] = torch.arange(begin, begin + length)
        scatter += range(branch * longest, branch * longest + length)
        begin += length
    return Block(rows, shared, tuple(lengths), gather.reshape(-1), torch.tensor(scatter))


def _bias(block: Block, positions: Tensor, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    offset = block.scatter % block.longest  # (rows,) place of each row within its branch
    distance = offset[:, None] - torch.arange(block.longest)[None, :]
    own = _minus_infinity((distance < 0) | (distance >= (window or block.longest)), dtype)
    if window is None or not block.shared:
        return None, own
    keys = torch.cat([positions[span] for span in block.shared])
    hidden = positions[block.rows][:, None] - keys[None, :] >= window
    return (_minus_infinity(hidden, dtype) if bool(hidden.any()) else None), own


def _minus_infinity(where: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(where.shape, dtype=dtype).masked_fill_(where, float("-inf"))


def _span(segment: int, starts: Sequence[int]) -> slice:
    return slice(starts[segment], starts[segment + 1])


def _merged(spans: Sequence[slice]) -> tuple[slice, ...]:
    """Neighbouring spans as one, so that keys need not be copied together."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return tuple(found)
