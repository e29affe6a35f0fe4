"""Fit a training into memory: probe the largest microbatch first, and return freed memory to the system.

The probe runs forward and backward of the largest microbatch, so a training runs out of memory before the first step or
never. It reduces the number of parallel packs, then the tokens of a pack, until the microbatch fits.

glibc keeps freed memory for the thread that allocated it. Packs of many sizes fragment it, and packs on parallel
threads do not reuse the memory of a single pack; without `AllocatorCacheTrimmer`, a training of a few hundred steps
held twice the memory of its largest step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy
import torch

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import lacks_memory
from luthier.core.system.process import resident_bytes, trim_malloc_heap
from luthier.models.packing.pack import Pack, TokenRow, build_packs
from luthier.tune.training.parallel import schedule_parallel_packs
from luthier.tune.training.schedule import BatchSampler

Prepared = Callable[[list[TokenRow]], list[TokenRow]]
LOOKED_AT = 32
"""Number of steps, those with most tokens, whose packs are built to find the largest."""


class SizedDataset(Protocol):
    """Examples by index, and the tokens of each."""

    @property
    def sizes(self) -> numpy.ndarray[Any, Any]:
        """(examples,) tokens of each example."""

    def rows(self, number: int) -> list[TokenRow]:
        """Return the rows of one example."""


ParallelPacks = tuple[Pack, ...]
"""Packs that are read in parallel."""


class MemoryPlan(NamedTuple):
    """The microbatch size in tokens and the number of parallel packs that fit into memory, with an explanation."""

    tokens: int
    lanes: int
    what: str


@dataclass
class ProbedMemory:
    """Sizes of packs that fit into memory, for consecutive trainings over one model: smaller ones are not
    probed again.
    """

    tokens: int = 0
    """Tokens of the largest parallel packs that fit."""
    drawn: bool = False
    """Whether reading them used random numbers."""

    def covers(self, parallel_packs: ParallelPacks) -> bool:
        """Return whether packs are no larger than what fits."""
        return sum(pack.tokens for pack in parallel_packs) <= self.tokens


def probe_memory(
    largest: Callable[[int, int], ParallelPacks], tokens: int, lanes: int, read: Callable[[ParallelPacks], None]
) -> MemoryPlan:
    """Run the largest packs in parallel, then one by one, then smaller ones, until they fit into memory.

    `largest` returns them for a maximum of tokens and a number of parallel packs. `ModelError` when not even the rows
    of one example fit.
    """
    smaller = ""
    while True:
        parallel_packs = largest(tokens, lanes)
        pack, computed = max(parallel_packs, key=_cost), sum(parallel_pack.tokens for parallel_pack in parallel_packs)
        if _fits_in_memory(parallel_packs, read):
            return MemoryPlan(tokens, lanes, f"{_named(parallel_packs)} into memory{smaller}")
        if len(parallel_packs) > 1:
            lanes = 1
            smaller = f": packs are read one after another, since {computed} tokens side by side did not"
            continue
        if int(pack.example_index[-1]) == 0:
            what = f"the {pack.tokens} tokens of example {pack.keys[0]} do not fit into memory"
            hint = "leave out or cut long rows (max_length), or choose a technique or a model that needs less"
            raise ModelError(what, where=SourceLocation(field="max_tokens_per_microbatch"), hint=hint)
        tokens = min(tokens, pack.tokens) // 2
        smaller = f": max_tokens_per_microbatch was lowered to {tokens}, since {pack.tokens} tokens did not"


def _named(parallel_packs: ParallelPacks) -> str:
    if len(parallel_packs) == 1:
        return f"the largest pack ({parallel_packs[0].tokens} tokens of {parallel_packs[0].rows} rows) fits"
    sizes = " and ".join(str(parallel_pack.tokens) for parallel_pack in parallel_packs)
    rows = sum(parallel_pack.rows for parallel_pack in parallel_packs)
    return f"the largest packs side by side ({sizes} tokens of {rows} rows) fit"


def _fits_in_memory(parallel_packs: ParallelPacks, read: Callable[[ParallelPacks], None]) -> bool:
    """Return whether packs can be read in parallel; memory allocated on the way is released."""
    try:
        with torch.random.fork_rng():
            read(parallel_packs)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
    else:
        return True
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def find_largest_packs(
    dataset: SizedDataset, sampler: BatchSampler, tokens: int, lanes: int = 1, prepared: Prepared = list
) -> ParallelPacks:
    """Return the parallel packs with most tokens, among those of the steps with most tokens; none where every step is
    empty.
    """
    sizes = dataset.sizes
    weights = [int(sizes[sampler.get_batch_indices(step)].sum()) for step in range(sampler.steps)]
    longest = [int(sizes[sampler.get_batch_indices(step)].max(initial=0)) for step in range(sampler.steps)]
    steps = sorted(range(sampler.steps), key=lambda step: (-weights[step], step))[:LOOKED_AT]
    steps.append(longest.index(max(longest)))
    read = (prepared(read_step_rows(dataset, sampler, step)) for step in steps if weights[step])
    at_once = (
        tuple(sorted(some, key=_cost, reverse=True)[:lanes])
        for rows in read
        for some in schedule_parallel_packs(rows, tokens, lanes)
    )
    return max(at_once, key=lambda some: _sum(map(_cost, some)), default=())


def _sum(costs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    tokens, sources = zip(*costs, strict=True)
    return sum(tokens), sum(sources)


def _cost(pack: Pack) -> tuple[int, int]:
    return pack.tokens, pack.sources.shape[0]


def iterate_packs(dataset: SizedDataset, sampler: BatchSampler, tokens: int) -> Generator[Pack]:
    """Yield all packs of a training in order; a prompt whose completion is not sampled yet is read whole."""
    for step in range(sampler.steps):
        yield from build_packs([_add_probe_token(row) for row in read_step_rows(dataset, sampler, step)], tokens)


def _add_probe_token(row: TokenRow) -> TokenRow:
    """Return a row without trained tokens with one more token, so that the row is read."""
    return row if row.targets else replace(row, ids=[*row.ids, row.ids[-1]], loss_weights=[*row.loss_weights, 1.0])


def read_step_rows(dataset: SizedDataset, sampler: BatchSampler, step: int) -> list[TokenRow]:
    """Return the rows of one optimizer step."""
    return [row for index in sampler.get_batch_indices(step) for row in dataset.rows(index)]


SLACK = 1.1
"""Memory that may be held, as a multiple of what the largest step needed: releasing memory costs as much as allocating
it again."""


class AllocatorCacheTrimmer:
    """Tracks this process's resident memory and releases cached memory that the next packs cannot reuse."""

    def __init__(self) -> None:
        self._bound = 0
        self._beside = 0
        self._fresh = False

    def before(self, n_packs: int) -> None:
        """Release cached memory that the next `n_packs` parallel packs cannot reuse, or that exceeds the limit."""
        held = resident_bytes()
        if self._fresh:  # what is held now is what the packs since needed
            self._bound = max(self._bound, held)
        self._fresh = n_packs != self._beside or held > SLACK * self._bound
        self._beside = n_packs
        if self._fresh:
            trim_malloc_heap()
