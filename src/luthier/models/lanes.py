"""Packs side by side: each in a thread with its own share of the processor's cores.

Two cores that share every small operation wait for one another between them, and for whatever else runs on the machine;
two cores that each read a pack of their own do not. What comes of packs is told in their order, so that no bit depends
on which is ready first.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

import torch

from luthier.models.at_once import LANES, LEAST_TOKENS, WORTH
from luthier.models.attention import NAME, implemented
from luthier.models.attention.begun import begun_of
from luthier.models.logprobs import reading
from luthier.models.pack import SHARE_FROM, Pack, Row, packs
from luthier.models.sequence import is_sequence, plain_model

Found = TypeVar("Found")


def lanes_for(model: Any) -> int:
    """How many packs of a model can be read at once here: one where reading it changes what another thread sees."""
    return LANES if _is_steady(model) and torch.get_num_threads() >= LANES else 1


@torch.no_grad()
def read_packs(
    model: Any, rows: Sequence[Row], tokens: int, work: Callable[[Pack], Found], share_from: int = SHARE_FROM
) -> list[tuple[Pack, Found]]:
    """Packs of rows that are read and not learnt, at most `tokens` at once, each with what comes of it.

    They become as many packs as lanes take at once, wherever that is worth it; whether there are cores for so many is
    of no account, so that no number depends on it.
    """
    found = _packed(model, rows, tokens, share_from) if rows else []
    if len(found) < LANES or lanes_for(model) == 1:
        return [(one, work(one)) for one in found]
    return list(zip(found, _readers().each(model, lambda one: _unlearnt(work, one), found), strict=True))


def _packed(model: Any, rows: Sequence[Row], tokens: int, share_from: int) -> list[Pack]:
    whole = packs(rows, tokens, share_from)
    computed = sum(map(_computed, whole))
    if computed < LANES * LEAST_TOKENS or not _is_steady(model):
        return whole
    beside = packs(rows, tokens // LANES, share_from, beside=LANES)
    return beside if sum(map(_computed, beside)) <= LANES * WORTH * computed else whole


def _computed(pack: Pack) -> int:
    """Tokens of a pack that were not computed before."""
    begun = begun_of(pack)
    return pack.tokens - (begun.known if begun is not None else 0)


def _unlearnt(work: Callable[[Pack], Found], pack: Pack) -> Found:
    with torch.no_grad():  # each thread has its own say in this
        return work(pack)


def _is_steady(model: Any) -> bool:
    """Whether threads can read a model at once, on processors: nothing in it changes while it is read."""
    how, inner = reading(model), plain_model(model)
    steady = how.packed and how.turn is None and (how.head is not None or is_sequence(inner))
    return steady and all(parameter.device.type == "cpu" for parameter in model.parameters())


class Lanes:
    """Threads that read packs at once, each computing on its share of the cores; they bear the name of their work."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self.name = name
        self._pool: ThreadPoolExecutor | None = None

    def each(self, model: Any, work: Callable[[Pack], Found], some: Sequence[Pack]) -> Generator[Found, None, None]:
        """What comes of each pack, in their order; a lane takes the next as it is ready. What goes wrong in a thread is
        raised here, once those that were begun have ended."""
        if len(some) == 1:
            yield work(some[0])
            return
        with implemented(plain_model(model), NAME):  # no thread may take the other's attention away
            jobs = deque(self._threads().submit(copy_context().run, work, one) for one in some)
            try:
                while jobs:
                    wait([jobs[0]])
                    yield jobs.popleft().result()
            finally:
                for job in jobs:
                    job.cancel()
                wait(jobs)

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _threads(self) -> ThreadPoolExecutor:
        """Threads stay from step to step: matrix libraries keep their kernels by thread."""
        if self._pool is None:
            whole = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                self.count, self.name, initializer=torch.set_num_threads, initargs=(max(1, whole // self.count),)
            )
        return self._pool


_READERS: list[Lanes] = []
"""The lanes of all readings of this process: they stay for the next."""


def _readers() -> Lanes:
    if not _READERS:
        _READERS.append(Lanes(LANES, "reading"))
    return _READERS[0]


os.register_at_fork(after_in_child=_READERS.clear)
