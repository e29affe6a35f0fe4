"""Parts of an optimizer step: how its rows are divided, and the fixed order in which sums over parts are taken.

The rows of a step are divided into P parts by their contents. Each part is packed alone and computed by one thread. The
results of parts (gradients, losses, counts) are added along one binary tree over the parts, whoever computes them: one
process, or up to P ranks that exchange shards of their gradients. So the number of ranks changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from luthier.models.packing.pack import Pack, TokenRow, build_pack, split_rows
from luthier.models.packing.parallel import WorkerThreads
from luthier.models.packing.parallel_plan import LEAST_TOKENS
from luthier.tune.training.group import RankGroup
from luthier.tune.training.memory import AllocatorCacheTrimmer
from luthier.tune.training.mixed_precision import GradientSum, MixedPrecisionOptimizer
from luthier.tune.training.pack_gradient import PackGradientComputer, StepGradient
from luthier.tune.training.parallel import schedule_parallel_packs

AGAIN = 0.05
"""Share of a step's tokens that its parts may compute again, for prefixes that rows share, under `parts: auto`."""
LOOKED_AT = 32
"""Number of steps that `parts: auto` considers."""
Sum = TypeVar("Sum")
Job = tuple[int, list[Pack]]
"""A part and its packs."""


def deal_rows(rows: Sequence[TokenRow], parts: int) -> list[list[TokenRow]]:
    """Divide a step's rows into parts: similar rows together, parts of about equal cost; empty ones where examples do
    not suffice.

    It depends on the rows alone.
    """
    dealt = split_rows(rows, max(1, sum(len(row.ids) for row in rows)), n_parallel=parts) if parts > 1 else [list(rows)]
    return dealt + [[] for _ in range(parts - len(dealt))]


def count_computed_tokens(deals: Sequence[Sequence[TokenRow]]) -> int:
    """Return the tokens that parts compute, shared prefixes once in each."""
    return sum(build_pack(rows).tokens for rows in deals if rows)


def choose_parts(steps: Sequence[Sequence[TokenRow]]) -> int:
    """Return the largest power of two of parts with which some steps compute at most `AGAIN` more than undivided, and
    each part has enough tokens for a thread.
    """
    whole = sum(count_computed_tokens([rows]) for rows in steps)
    examples = max(sum(1 / row.group_size for row in rows) for rows in steps)
    parts = 1
    while 2 * parts <= examples and whole >= 2 * parts * LEAST_TOKENS * len(steps):
        computed = sum(count_computed_tokens(deal_rows(rows, 2 * parts)) for rows in steps)
        if computed > (1 + AGAIN) * whole:
            break
        parts *= 2
    return parts


def halve(span: range) -> tuple[range, range]:
    """Return the two spans whose sums add up to that of a span of parts."""
    middle = (span.start + span.stop + 1) // 2
    return range(span.start, middle), range(middle, span.stop)


def assign_spans(parts: int, ranks: int) -> list[range]:
    """Return the span of parts of each rank: whole branches of the tree, so that a rank has one sum to exchange; as
    even as that allows.

    `ValueError` for more ranks than parts.
    """
    if not 1 <= ranks <= parts:
        raise ValueError(f"{parts} parts cannot be dealt to {ranks} ranks")
    spans = [range(parts)]
    while len(spans) < ranks:
        largest = max(range(len(spans)), key=lambda at: (len(spans[at]), -at))
        spans[largest : largest + 1] = halve(spans[largest])
    return spans


def sum_tree(
    span: range, known: Collection[range], take: Callable[[range], Sum | None], add: Callable[[Sum, Sum], Sum]
) -> Sum | None:
    """Return the sum over a span of parts along the tree, from those of known spans, which are taken in order; None for
    a span without rows.
    """
    if span in known:
        return take(span)
    first, second = (sum_tree(half, known, take, add) for half in halve(span))
    if first is None or second is None:
        return second if first is None else first
    return add(first, second)


class PartReader:
    """Computes parts of a step in one process."""

    def __init__(
        self, reader: PackGradientComputer, updater: MixedPrecisionOptimizer, *, seed: int, parts: int
    ) -> None:
        self._reader, self._updater, self._seed = reader, updater, seed
        self.parts = parts
        self.threads = WorkerThreads(1, "learning", threads=1)
        """How many parts are computed at once, each by one thread."""
        self._leftovers = AllocatorCacheTrimmer()

    def read(
        self, rows: Mapping[int, Sequence[TokenRow]], span: range, denominator: float, *, tokens: int, step: int
    ) -> tuple[list[StepGradient | None], GradientSum | None]:
        """Return each part's gradient statistics in order (None: it has no rows), and the sum of their gradients along
        the tree.

        The packs of all parts hold at most `tokens` tokens, as far as examples allow.
        """
        most = max(1, tokens // self.parts)
        packs = {
            part: [pack for some in schedule_parallel_packs(rows[part], most, 1) for pack in some]
            for part in span
            if rows[part]
        }
        self._leftovers.before(min(len(packs), self.threads.count))
        ready = [(part, [self._reader.prepare(pack) for pack in some]) for part, some in packs.items()]
        gradients_by_part: dict[int, StepGradient] = {}

        def work(job: Job) -> tuple[StepGradient, GradientSum]:
            return self._read_part(*job, denominator, step)

        with closing(self._compute_parts(work, ready)) as results:

            def take(one: range) -> GradientSum | None:
                if one.start not in packs:
                    return None
                gradients_by_part[one.start], gradients = next(results)
                return gradients

            total = sum_tree(span, [range(part, part + 1) for part in span], take, GradientSum.add)
        return [gradients_by_part.get(part) for part in span], total

    def _compute_parts(
        self, work: Callable[[Job], tuple[StepGradient, GradientSum]], jobs: Sequence[Job]
    ) -> Generator[tuple[StepGradient, GradientSum], None, None]:
        if self.threads.count > 1:
            yield from self.threads.each(work, jobs)
        else:
            yield from map(work, jobs)

    def _read_part(
        self, part: int, packs: Sequence[Pack], denominator: float, step: int
    ) -> tuple[StepGradient, GradientSum]:
        """Read the packs of one part one after another."""
        total, gradients = StepGradient(), self._updater.build_sum()
        with self._reader.learn_media(packs) as media:
            for number, pack in enumerate(packs):
                if self.threads.count == 1:
                    torch.manual_seed(mix_seed(self._seed, step, (part << 32) + number))  # only dropout asks for it
                read = self._reader.read(pack, denominator)
                gradients.gather(read.gradients)
                if media is not None:
                    media.gather(read.media)
                total = total.and_of(self._reader.describe(read, pack, denominator))
        if media is not None:
            gradients.gather(media.gradients(list(self._updater.parameters.values())))
        return total, gradients


def mix_seed(seed: int, step: int, pack: int) -> int:
    """Return a different dropout seed for every pack."""
    return (seed * 1_000_003 + step) * 1_009 + pack & (1 << 63) - 1


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Set the number of computing threads within a context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assign_weights(sizes: Sequence[int], ranks: int) -> list[range]:
    """Return the weights that each rank owns, by their sizes: whole ones, in order, as even as that allows."""
    whole, before, ends = sum(sizes), 0, [0] * ranks
    for at, size in enumerate(sizes):
        owner = min(ranks - 1, (2 * before + size) * ranks // max(1, 2 * whole))
        ends[owner] = at + 1
        before += size
    for rank in range(1, ranks):
        ends[rank] = max(ends[rank], ends[rank - 1])
    return [range(ends[rank - 1] if rank else 0, ends[rank]) for rank in range(ranks)]


def find_neighbours(group: RankGroup) -> tuple[int, int]:
    """Return the rank whose weights this one copies, and the one that copies its own."""
    return (group.rank - 1) % group.size, (group.rank + 1) % group.size


def reduce_over_ranks(
    group: RankGroup,
    spans: Sequence[range],
    own: GradientSum | None,
    present: Sequence[bool],
    build: Callable[[], GradientSum],
    wait_s: float,
) -> GradientSum | None:
    """Return the sum of all ranks' gradients along the tree, for the weights that this rank updates: its own, and those
    of the rank before it.

    `present` says which ranks have a gradient. Each rank adds up the gradients of its weights from the others' shards,
    and sends the sum to the rank that keeps a copy. Together with the weights, which go to all others later, 2(W - 1)/W
    of the vector leaves each of W ranks.
    """
    if group.size == 1 or not any(present):
        return own
    total = own or build()
    before, behind = find_neighbours(group)
    for dtype, vector in total.flat.items():
        shards = find_shards(total, dtype, group.size)
        mine, others = shards[group.rank], [rank for rank in group.others if _length(shards[rank])]
        received = {rank: torch.empty_like(vector[mine]) for rank in group.others if present[rank] and _length(mine)}
        group.exchange({rank: vector[shards[rank]] for rank in others} if own is not None else {}, received, wait_s)
        if _length(mine):
            pieces: dict[range, Tensor] = {spans[rank]: value for rank, value in received.items()}
            if own is not None:
                pieces[spans[group.rank]] = vector[mine]
            summed = sum_tree(range(spans[0].start, spans[-1].stop), spans, pieces.get, Tensor.add_)
            assert summed is not None, "some rank has a gradient"
            if summed.data_ptr() != vector[mine].data_ptr():
                vector[mine] = summed
        copied = {before: vector[shards[before]]} if _length(shards[before]) else {}
        group.exchange({behind: vector[mine]} if _length(mine) else {}, copied, wait_s)
    return total


def find_shards(total: GradientSum, dtype: torch.dtype, ranks: int) -> list[slice]:
    """Return the slice of one dtype's vector with each rank's weights."""
    ends = [begin + view.numel() for begin, view in zip(total.begins, total.views, strict=True)]
    shards = []
    for weights in assign_weights([view.numel() for view in total.views], ranks):
        some = [at for at in weights if total.views[at].dtype == dtype]
        shards.append(slice(total.begins[some[0]], ends[some[-1]]) if some else slice(0, 0))
    return shards


def share_weights(group: RankGroup, weights: Sequence[Tensor], wait_s: float) -> None:
    """Send the weights that each rank updated to the others, in the dtype of the model's computation."""
    if group.size < 3:
        return
    before, behind = find_neighbours(group)
    owned = assign_weights([weight.numel() for weight in weights], group.size)
    for dtype in dict.fromkeys(weight.dtype for weight in weights):
        of_rank = [[weights[at].data for at in some if weights[at].dtype == dtype] for some in owned]
        incoming = {
            rank: torch.empty(sum(map(torch.numel, of_rank[rank])), dtype=dtype, device=of_rank[rank][0].device)
            for rank in group.others
            if rank != before and of_rank[rank]
        }
        own = of_rank[group.rank]
        sent = torch.cat([weight.reshape(-1) for weight in own]) if own else None
        group.exchange(
            {rank: sent for rank in group.others if rank != behind} if sent is not None else {}, incoming, wait_s
        )
        for rank, value in incoming.items():
            sizes = [weight.numel() for weight in of_rank[rank]]
            for weight, piece in zip(of_rank[rank], torch.split(value, sizes), strict=True):
                weight.copy_(piece.view(weight.shape))


def _length(shard: slice) -> int:
    return int(shard.stop - shard.start)
