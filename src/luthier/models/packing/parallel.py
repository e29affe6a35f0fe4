"""Reads several packs at a time on threads, each with its own share of the CPU cores.

Cores that share each small operation wait for one another and for other processes; cores with a pack of their own do
not. Results come in the order of the packs, so they do not depend on timing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

import torch

from luthier.models.attention.prefix import get_active_prefix_kv
from luthier.models.packing.logprobs import detect_forward_mode
from luthier.models.packing.pack import SHARE_FROM, Pack, TokenRow, build_packs
from luthier.models.packing.parallel_plan import LANES, LEAST_TOKENS, WORTH
from luthier.models.sequence_head import ends_in_sequence_head, unwrap_peft_model

PackResult = TypeVar("PackResult")
Item = TypeVar("Item")


def count_parallel_packs(model: Any) -> int:
    """Return how many packs of a model can be read in parallel here: one where reading changes what another thread
    sees.
    """
    return LANES if is_thread_safe(model) and torch.get_num_threads() >= LANES else 1


@torch.no_grad()
def run_packs(
    model: Any, rows: Sequence[TokenRow], tokens: int, work: Callable[[Pack], PackResult], share_from: int = SHARE_FROM
) -> list[tuple[Pack, PackResult]]:
    """Run `work` on packs of rows without gradients, at most `tokens` tokens at once; return each pack with its result.

    The number of packs suits the default number of threads wherever that pays, even without the cores for it, so that
    no result depends on the machine.
    """
    packs = _build_packs(model, rows, tokens, share_from) if rows else []
    if len(packs) < LANES or count_parallel_packs(model) == 1:
        return [(pack, work(pack)) for pack in packs]
    return list(zip(packs, _readers().each(lambda pack: _run_without_gradient(work, pack), packs), strict=True))


def _build_packs(model: Any, rows: Sequence[TokenRow], tokens: int, share_from: int) -> list[Pack]:
    whole = build_packs(rows, tokens, share_from)
    computed = sum(map(_computed, whole))
    if computed < LANES * LEAST_TOKENS or not is_thread_safe(model):
        return whole
    parallel_packs = build_packs(rows, tokens // LANES, share_from, n_parallel=LANES)
    return parallel_packs if sum(map(_computed, parallel_packs)) <= LANES * WORTH * computed else whole


def _computed(pack: Pack) -> int:
    """Return the tokens of a pack that were not computed before."""
    prefix_kv = get_active_prefix_kv(pack)
    return pack.tokens - (prefix_kv.known if prefix_kv is not None else 0)


def _run_without_gradient(work: Callable[[Pack], PackResult], pack: Pack) -> PackResult:
    with torch.no_grad():  # each thread has its own say in this
        return work(pack)


def is_thread_safe(model: Any) -> bool:
    """Return whether threads can read a model in parallel, on processors: reading does not change it."""
    mode, inner = detect_forward_mode(model), unwrap_peft_model(model)
    steady = mode.packed and mode.turn is None and (mode.head is not None or ends_in_sequence_head(inner))
    steady = steady and not mode.media_alone  # the model's own forward may keep positions from call to call
    return steady and all(parameter.device.type == "cpu" for parameter in model.parameters())


class WorkerThreads:
    """Threads that read packs in parallel, each computing on its share of the cores; they are named after
    their work.
    """

    def __init__(self, count: int, name: str, threads: int | None = None) -> None:
        """Start no thread yet; `threads`: number of computing threads of each, in place of its share of the cores."""
        self.count = count
        self.name = name
        self._own_threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def each(self, work: Callable[[Item], PackResult], items: Sequence[Item]) -> Generator[PackResult, None, None]:
        """Yield the result of each item, in order; a free thread takes the next item.

        An error in a thread is raised here, once the started items have ended.
        """
        if len(items) == 1:
            yield work(items[0])
            return
        jobs = deque(self._threads().submit(copy_context().run, work, entry) for entry in items)
        try:
            while jobs:
                wait([jobs[0]])
                yield jobs.popleft().result()
        finally:
            for job in jobs:
                job.cancel()
            wait(jobs)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _threads(self) -> ThreadPoolExecutor:
        """The thread pool, which stays from step to step: matrix libraries cache kernels by thread."""
        if self._pool is None:
            whole = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                self.count,
                self.name,
                initializer=torch.set_num_threads,
                initargs=(self._own_threads or max(1, whole // self.count),),
            )
        return self._pool


_READERS: list[WorkerThreads] = []
"""The process-wide threads of all readings."""


def _readers() -> WorkerThreads:
    if not _READERS:
        _READERS.append(WorkerThreads(LANES, "reading"))
    return _READERS[0]


os.register_at_fork(after_in_child=_READERS.clear)
