"""Packs of one step side by side: each in a thread with its own share of the processor's cores.

Two cores that share every small operation wait for one another between them; two cores that each read a pack of their
own do not. Gradients are summed in the order of packs, so that no bit depends on which is ready first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

import torch

from luthier.models.attention import NAME, implemented
from luthier.models.logprobs import reading
from luthier.models.pack import Pack, Row, packs
from luthier.models.sequence import is_sequence, plain_model
from luthier.tune.at_once import AGAIN, ENOUGH, LANES, LEAST_TOKENS, WORTH

Found = TypeVar("Found")


def lanes_for(model: Any) -> int:
    """How many packs of a model can be read at once here: one where reading it changes what another thread sees."""
    how, inner = reading(model), plain_model(model)
    steady = how.packed and how.turn is None and (how.head is not None or is_sequence(inner))
    here = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return LANES if steady and here and torch.get_num_threads() >= LANES else 1


def rounds(rows: Sequence[Row], tokens: int, lanes: int) -> list[tuple[Pack, ...]]:
    """The packs of a step, those together that lanes take one after another, each as it is ready; at most so many
    tokens are read at any moment, side by side or not."""
    whole = packs(rows, tokens)
    computed = sum(one.tokens for one in whole)
    if lanes > 1 and computed >= LEAST_TOKENS * lanes:
        found = _enough(rows, tokens // lanes, lanes, computed) or packs(rows, tokens // lanes, beside=lanes)
        if _last(found, lanes) <= WORTH * computed and sum(_most(found, lanes)) <= tokens:
            return [tuple(found)]
    return [(one,) for one in (_enough(rows, tokens, 1, computed) or whole)]


def _enough(rows: Sequence[Row], tokens: int, lanes: int, computed: int) -> list[Pack]:
    """Packs of enough tokens and no more, where rows share so little that hardly more is computed; else none."""
    if torch.cuda.is_available() or tokens <= ENOUGH or computed <= ENOUGH * lanes:
        return []
    found = packs(rows, ENOUGH, beside=lanes)
    return found if sum(one.tokens for one in found) <= AGAIN * computed else []


def _last(some: Sequence[Pack], lanes: int) -> int:
    """Tokens of the lane that ends last, when each takes the next pack as it is ready."""
    ends = [0] * lanes
    for one in some:
        ends[ends.index(min(ends))] += one.tokens
    return max(ends)


def _most(some: Sequence[Pack], lanes: int) -> list[int]:
    """Tokens of the largest packs that may be read at the same time."""
    return sorted((one.tokens for one in some), reverse=True)[:lanes]


class Lanes:
    """Threads that read packs at once, each computing on its share of the cores."""

    def __init__(self, count: int) -> None:
        self.count = count
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
                self.count, "lane", initializer=torch.set_num_threads, initargs=(max(1, whole // self.count),)
            )
        return self._pool
