"""Packs of one step side by side: each in a thread with its own share of the processor's cores.

Two cores that share every small operation wait for one another between them; two cores that each read a pack of their
own do not. Gradients are summed in the order of packs, so that no bit depends on which is ready first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

import torch

from luthier.models.attention import NAME, implemented
from luthier.models.logprobs import reading
from luthier.models.pack import Pack, Row, packs
from luthier.models.sequence import is_sequence, plain_model

LANES = 2
"""Packs that are read at once where a processor has the cores: what was measured."""
LEAST_TOKENS = 1024
"""Steps with fewer tokens for each lane are read as one: Python itself takes turns, and fewer were not measured."""
WORTH = 0.55
"""Side by side pays when the longest lane computes at most this share of what a step computes when it is read as one
(a prefix that all rows share would be computed twice)."""

Found = TypeVar("Found")


def lanes_for(model: Any) -> int:
    """How many packs of a model can be read at once here: one where reading it changes what another thread sees."""
    how, inner = reading(model), plain_model(model)
    steady = how.packed and how.turn is None and (how.head is not None or is_sequence(inner))
    here = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return LANES if steady and here and torch.get_num_threads() >= LANES else 1


def rounds(rows: Sequence[Row], tokens: int, lanes: int) -> list[tuple[Pack, ...]]:
    """The packs of a step, those that are read at once together; at most so many tokens are, side by side or not."""
    whole = packs(rows, tokens)
    computed = sum(one.tokens for one in whole)
    if lanes > 1 and computed >= LEAST_TOKENS * lanes:
        parts = packs(rows, tokens // lanes, beside=lanes)
        found = [tuple(parts[at : at + lanes]) for at in range(0, len(parts), lanes)]
        longest = sum(max(one.tokens for one in some) for some in found)
        if longest <= WORTH * computed and all(sum(one.tokens for one in some) <= tokens for some in found):
            return found
    return [(one,) for one in whole]


class Lanes:
    """Threads that read packs at once, each computing on its share of the cores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def each(self, model: Any, work: Callable[[Pack], Found], some: Sequence[Pack]) -> list[Found]:
        """What comes of each pack, in their order; what goes wrong in a thread is raised here, once all have ended."""
        if len(some) == 1:
            return [work(some[0])]
        with implemented(plain_model(model), NAME):  # no thread may take the other's attention away
            jobs = [self._threads().submit(copy_context().run, work, one) for one in some]
            wait(jobs)
        return [job.result() for job in jobs]

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
