"""Prefix-tree packs: rows that share a prefix are computed once.

A pack is a forest of token rows in which every shared prefix stands once, such as one system prompt, or one prompt with
several completions. Attention follows ancestry and positions follow depth, so a model reads each row as if it were
alone.

The rows of a step that do not fit into one pack are split into few packs of about equal size, cut where little is
shared. Where almost nothing is shared they are dealt out evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

EVEN = 0.04
"""Tolerated difference of parts, as a share of the largest, unless they are read in parallel."""
LOOK_BACK = 8
"""A cut may come earlier by one over this share of a part, where examples share less."""
Size = Callable[[int, int], int]
"""Tokens of the examples from the first index up to the second, packed together; monotonic in both."""


def split_into_runs(count: int, size: Size, links: Sequence[int], most: int, n_parallel: int = 1) -> list[range]:
    """Split examples 0 up to `count` into as few runs of at most `most` tokens as possible (a larger one stands alone).

    The largest run is about as small as possible with that number. `links` are the tokens that each example shares with
    the one before it, which a cut before it computes twice. Where runs are read `n_parallel` at a time, their number
    leaves none alone, and even runs take precedence over cheap cuts.
    """
    if not count or (n_parallel == 1 and size(0, count) <= most):
        return [range(count)] if count else []
    size = cache(size)
    runs = _fill_runs(count, size, most)
    parts = min(count, -(-len(runs) // n_parallel) * n_parallel)
    low, high = max(size(0, count) // parts, *(size(at, at + 1) for at in range(count))), most
    even = EVEN if n_parallel == 1 else 0
    while high - low > max(1, even * high):
        middle = (low + high) // 2
        tried = _fill_runs(count, size, middle)
        if len(tried) <= parts:
            runs, high = tried, middle
        else:
            low = middle
    if n_parallel > 1:
        return runs
    gentle = _fill_runs(count, size, min(most, high + high // LOOK_BACK), links)
    return min(runs, gentle, key=lambda some: (len(some), sum(size(run.start, run.stop) for run in some)))


def _fill_runs(count: int, size: Size, most: int, links: Sequence[int] | None = None) -> list[range]:
    """Return runs that are filled one after another; with links, each cut may come a little earlier."""
    runs: list[range] = []
    begin = 0
    while begin < count:
        end = _find_run_end(begin, count, size, most)
        if links is not None and end < count:
            earliest = max(begin + 1, end - (end - begin) // LOOK_BACK)
            end = min(range(earliest, end + 1), key=lambda at: (links[at], -at))
        runs.append(range(begin, end))
        begin = end
    return runs


def _find_run_end(begin: int, count: int, size: Size, most: int) -> int:
    """Return the last index up to which examples fit together; at least one is taken."""
    low, high = begin + 1, count
    while low < high:
        middle = (low + high + 1) // 2
        if size(begin, middle) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def distribute_evenly(weights: Sequence[float], parts: int) -> list[list[int]]:
    """Distribute examples over `parts` parts of about equal weight: heaviest first, each to the lightest
    part so far.
    """
    distributed: list[list[int]] = [[] for _ in range(parts)]
    heavy = [0.0] * parts
    for at in sorted(range(len(weights)), key=lambda at: (-weights[at], at)):
        lightest = min(range(parts), key=lambda part: (heavy[part], part))
        distributed[lightest].append(at)
        heavy[lightest] += weights[at]
    return [sorted(part) for part in distributed if part]


SHARE_FROM = 16
"""Minimum tokens of a shared prefix: below it, copies cost less than a branch."""
_AT_ONCE = 64
"""Ids compared at once."""
LEARNT = 0.25
"""Extra cost of a trained token over one that is only read, in such tokens: the output head of a small model."""
AGAIN = 1.02
"""Maximum factor of computed tokens (of shared prefixes) for packs that are more even."""
_READ = ("ids", "positions", "sources", "targets", "path", "weights", "choices", "teacher")
"""Tensors that are moved to the model's device."""


@dataclass(frozen=True)
class TokenRow:
    """One path to read: its token ids and their loss weights."""

    ids: Sequence[int]
    loss_weights: Sequence[float]
    """Weight of each token in the loss, 0 for one that is only read; the first token cannot be trained."""
    key: str = ""
    """Id of the row's example."""
    group_size: int = 1
    """Number of rows of its example, itself included: they are adjacent and never split."""
    choices: Sequence[Sequence[int]] = ()
    """For each trained token the K token ids that a teacher ranks first; empty without a teacher."""
    teacher: Sequence[Sequence[float]] = ()
    """The teacher's log-probabilities of the choices."""
    token_values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Further inputs of a loss, by name: a number for each trained token (such as its log-probability when it was
    sampled)."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.loss_weights):
            raise ValueError(f"row {self.key!r} has {len(self.ids)} ids and {len(self.loss_weights)} weights")
        if len(self.choices) != len(self.teacher):
            raise ValueError(f"row {self.key!r} has {len(self.choices)} choices and {len(self.teacher)} of a teacher")

    @property
    def needed(self) -> int:
        """Number of leading tokens that must be read: no prediction uses the last trained token or what follows it."""
        return max((at for at in range(1, len(self.ids)) if self.loss_weights[at]), default=0)

    @property
    def targets(self) -> list[int]:
        """Indices of the trained tokens."""
        return [at for at in range(1, len(self.ids)) if self.loss_weights[at]]


@dataclass(frozen=True, eq=False)
class Pack:
    """A forest of token segments: T tokens, S segments, R rows, N trained tokens in the order of the rows."""

    ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64: depth of each token on its own path
    parent: Tensor  # (S,) int64: segment s continues segment parent[s]; -1 for a root; its descendants follow it
    starts: Tensor  # (S+1,) int64: segment s holds tokens starts[s] up to starts[s+1]
    sources: Tensor  # (N,) int64: the token whose hidden state predicts
    targets: Tensor  # (N,) int64: the token id that is predicted
    weights: Tensor  # (N,) float64: its share in the loss
    path: Tensor  # (N,) int64: the row that it belongs to
    leaf: Tensor  # (R,) int64: the segment in which a row ends; -1 for a row of which nothing is read
    example_index: Tensor  # (R,) int64: the number, within the pack, of the example that each row belongs to
    keys: tuple[str, ...]
    choices: Tensor | None = None  # (N, K) int64: token ids that are compared with a teacher at each learnt token
    teacher: Tensor | None = None  # (N, K) float32: the teacher's log-probabilities of the choices
    temperature: float = 1.0
    """Temperature of the choices' logits; that of targets is 1."""
    token_values: Mapping[str, Tensor] = field(default_factory=dict)  # each (N,) float64
    """Further inputs of the loss for each trained token, by name."""

    @property
    def tokens(self) -> int:
        """T: the number of computed tokens."""
        return self.ids.shape[0]

    @property
    def rows(self) -> int:
        """R: the number of rows."""
        return len(self.keys)

    @property
    def example_keys(self) -> tuple[str, ...]:
        """(E,) ids of its examples, by the index in `example_index`."""
        return tuple(dict(zip(self.example_index.tolist(), self.keys, strict=True)).values())

    def on(self, device: torch.device) -> Pack:
        """Return a copy with the model's inputs on a device."""
        if self.ids.device == device:
            return self
        moved = {name: value.to(device) for name in _READ if (value := getattr(self, name)) is not None}
        return replace(
            self, **moved, token_values={name: value.to(device) for name, value in self.token_values.items()}
        )

    def spans(self, row: int) -> list[slice]:
        """Return the tokens of a row's segments from the root down."""
        parent, starts = self.parent.tolist(), self.starts.tolist()
        return list(reversed(list(_iterate_ancestors(int(self.leaf[row]), parent, starts))))

    def unpack(self) -> list[list[int]]:
        """Return the ids of each row, as if it stood alone."""
        ids = self.ids.tolist()
        return [[token for span in self.spans(row) for token in ids[span]] for row in range(self.rows)]


def build_pack(rows: Sequence[TokenRow], share_from: int = SHARE_FROM) -> Pack:
    """Build a forest from rows; shared prefixes of at least `share_from` tokens are stored once."""
    read = [list(row.ids[: row.needed]) for row in rows]
    order = sorted(range(len(rows)), key=read.__getitem__)
    forest, leaf = _grow([read[at] for at in order], share_from)
    leaf_of = dict(zip(order, leaf, strict=True))
    starts = [0]
    for segment in forest:
        starts.append(starts[-1] + segment.end - segment.begin)
    parent = [segment.parent for segment in forest]
    ids = [token for segment in forest for token in read[order[segment.row]][segment.begin : segment.end]]
    positions = [position for segment in forest for position in range(segment.begin, segment.end)]
    sources = [source for at, row in enumerate(rows) for source in _sources(row, leaf_of[at], parent, starts)]
    choices, teacher = _stack_teacher_choices(rows)
    loss_tokens = [
        (row.ids[at], float(row.loss_weights[at]), which) for which, row in enumerate(rows) for at in row.targets
    ]
    return Pack(
        ids=_integers(ids),
        positions=_integers(positions),
        parent=_integers(parent),
        starts=_integers(starts),
        sources=_integers(sources),
        targets=_integers([token for token, _, _ in loss_tokens]),
        weights=torch.tensor([weight for _, weight, _ in loss_tokens], dtype=torch.float64),
        path=_integers([which for _, _, which in loss_tokens]),
        leaf=_integers([leaf_of[at] for at in range(len(rows))]),
        example_index=_integers([number for number, group in enumerate(_group_rows(rows)) for _ in group]),
        keys=tuple(row.key for row in rows),
        choices=choices,
        teacher=teacher,
        token_values=_columns(rows),
    )


def build_packs(rows: Sequence[TokenRow], tokens: int, share_from: int = SHARE_FROM, n_parallel: int = 1) -> list[Pack]:
    """Build as few packs of at most `tokens` tokens as possible, with similar rows together, and of about equal size.

    The rows of an example are never split; an example longer than `tokens` stands alone. Where packs are read
    `n_parallel` at a time, their number leaves none alone, if rows suffice, and the most expensive ones come first.
    """
    return [build_pack(part, share_from) for part in split_rows(rows, tokens, share_from, n_parallel)]


def split_rows(
    rows: Sequence[TokenRow], tokens: int, share_from: int = SHARE_FROM, n_parallel: int = 1
) -> list[list[TokenRow]]:
    """Return the rows of each pack that `build_packs` builds."""
    if not rows:
        return []
    read = [list(row.ids[: row.needed]) for row in rows]
    groups = sorted(
        (sorted(group, key=read.__getitem__) for group in _group_rows(rows)), key=lambda group: read[group[0]]
    )
    links = [0, *(common_prefix_length(read[entry[-1]], read[other[0]]) for entry, other in pairwise(groups))]

    def size(numbers: Iterable[int]) -> int:
        together = sorted(read[at] for number in numbers for at in groups[number])
        return sum(segment.end - segment.begin for segment in _grow(together, share_from)[0])

    new = [len(read[group[0]]) - link for group, link in zip(groups, links[: len(groups)], strict=True)]
    sums = [0, *accumulate(new)]

    def size_of_run(first: int, last: int) -> int:
        if share_from > 1 or len(groups) < len(rows):
            return size(range(first, last))
        return sums[last] - sums[first] + links[first]  # each row adds what it does not share with the one before

    parts: list[list[int]] = [list(run) for run in split_into_runs(len(groups), size_of_run, links, tokens, n_parallel)]
    if n_parallel > 1:
        head_costs = [LEARNT * sum(len(rows[at].targets) for at in group) for group in groups]
        parts = _balance_parts(parts, size, head_costs)
    return [[rows[at] for at in sorted(at for number in part for at in groups[number])] for part in parts]


def _balance_parts(
    parts: list[list[int]], size: Callable[[Iterable[int]], int], head_costs: Sequence[float]
) -> list[list[int]]:
    """Return the same number of parts of the same examples with more even costs where little is shared; expensive ones
    first.
    """

    def cost(part: Iterable[int]) -> float:
        return size(part) + sum(head_costs[at] for at in part)

    others = distribute_evenly([cost([at]) for at in range(len(head_costs))], len(parts))
    sizes, were = list(map(size, others)), list(map(size, parts))
    alike = max(map(cost, others)) < max(map(cost, parts)) and max(sizes) <= max(were)
    return sorted(others if alike and sum(sizes) <= AGAIN * sum(were) else parts, key=lambda part: -cost(part))


def _group_rows(rows: Sequence[TokenRow]) -> list[range]:
    """Return the indices of the rows of each example; the rows of an example are adjacent."""
    ranges, begin = list[range](), 0
    while begin < len(rows):
        ranges.append(range(begin, begin + rows[begin].group_size))
        begin = ranges[-1].stop
    if any(group.stop > len(rows) or any(rows[at].group_size != len(group) for at in group) for group in ranges):
        raise ValueError("the rows of a example are parted")
    return ranges


def _stack_teacher_choices(rows: Sequence[TokenRow]) -> tuple[Tensor | None, Tensor | None]:
    """Return the choices of all rows and the teacher's log-probabilities of them, if rows have them."""
    if not any(row.choices for row in rows):
        return None, None
    if any(len(row.choices) != len(row.targets) for row in rows):
        raise ValueError("a row has choices for some of its learnt tokens only")
    choices = [torch.as_tensor(row.choices, dtype=torch.int64) for row in rows]
    teacher = [torch.as_tensor(row.teacher, dtype=torch.float32) for row in rows]
    return torch.cat(choices), torch.cat(teacher)


def _columns(rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    """Return the token values of all rows, one column for each name; every trained row must have them."""
    names = dict.fromkeys(name for row in rows for name in row.token_values)
    for row in rows:
        if any(len(row.token_values.get(name, ())) != len(row.targets) for name in names):
            raise ValueError(f"row {row.key!r} does not tell {', '.join(names)} of each of its learnt tokens")
    flat = {name: [value for row in rows for value in row.token_values.get(name, ())] for name in names}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in flat.items()}


def pad_pack_size(pack: Pack) -> Pack:
    """Return the same pack with an unused last branch, so that few sizes occur: at most 64 in each doubling.

    Matrix libraries compile and cache a kernel for each new shape; a new size at each step costs more time and memory
    than the few tokens.
    """
    unit = max(8, 1 << max(0, pack.tokens.bit_length() - 7))
    missing = -pack.tokens % unit
    if not missing or not pack.tokens:
        return pack
    filler = pack.ids.new_zeros(missing)
    return replace(
        pack,
        ids=torch.cat([pack.ids, filler]),
        positions=torch.cat([pack.positions, filler]),
        parent=torch.cat([pack.parent, pack.parent[-1:]]),
        starts=torch.cat([pack.starts, _integers([pack.tokens + missing])]),
    )


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of leading ids that two rows share."""
    for begin in range(0, min(len(first), len(second)), _AT_ONCE):
        chunk, others = first[begin : begin + _AT_ONCE], second[begin : begin + _AT_ONCE]
        if chunk != others:
            for at, (a, b) in enumerate(zip(chunk, others, strict=False)):
                if a != b:
                    return begin + at
    return min(len(first), len(second))


class _Segment(NamedTuple):
    """Tokens `begin` up to `end` of a sorted row, continuing segment `parent`."""

    parent: int
    row: int
    begin: int
    end: int


class _Branch(NamedTuple):
    """Sorted rows `first` up to `last` that share their first `depth` tokens, which end in segment `parent`."""

    first: int
    last: int
    depth: int
    parent: int


def _grow(rows: list[list[int]], share_from: int) -> tuple[list[_Segment], list[int]]:
    """Return segments in depth-first order, and each sorted row's leaf."""
    shared = [common_prefix_length(entry, other) for entry, other in pairwise(rows)]
    forest: list[_Segment] = []
    leaf = [-1] * len(rows)
    least = max(1, share_from)
    todo = list(_runs(_Branch(0, len(rows), 0, -1), shared, least))
    while todo:
        branch = todo.pop()
        if branch.last - branch.first == 1:
            leaf[branch.first] = _put(forest, branch, len(rows[branch.first]))
            continue
        depth = min(shared[branch.first : branch.last - 1])
        below = _Branch(branch.first, branch.last, depth, _put(forest, branch, depth))
        todo += _runs(below, shared, depth + least)
    return forest, leaf


def _put(forest: list[_Segment], branch: _Branch, end: int) -> int:
    """Add the segment that ends a branch at a depth and return its index; an empty one is its parent."""
    if end == branch.depth:
        return branch.parent
    forest.append(_Segment(branch.parent, branch.first, branch.depth, end))
    return len(forest) - 1


def _runs(branch: _Branch, shared: list[int], least: int) -> list[_Branch]:
    """Return the longest runs of a branch's rows that share at least `least` tokens, last first."""
    cuts = [at for at in range(branch.first + 1, branch.last) if shared[at - 1] < least]
    bounds = pairwise([branch.first, *cuts, branch.last])
    return [_Branch(first, last, branch.depth, branch.parent) for first, last in bounds if last > first][::-1]


def _iterate_ancestors(leaf: int, parent: Sequence[int], starts: Sequence[int]) -> Iterator[slice]:
    while leaf >= 0:
        yield slice(starts[leaf], starts[leaf + 1])
        leaf = parent[leaf]


def _sources(row: TokenRow, leaf: int, parent: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Return for each trained token the token of the pack just before it on the row's path."""
    targets = row.targets
    sources: list[int] = []
    end = row.needed
    for span in _iterate_ancestors(leaf, parent, starts):
        begin = end - (span.stop - span.start)
        while targets and targets[-1] > begin:
            sources.append(span.start + targets.pop() - 1 - begin)
        end = begin
    return sources[::-1]


def _integers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
