"""Batches of rows through operators as tasks of the Ray cluster that a job runs in.

Results come back in the order of the batches, so that rows have the same bytes as in one process. Few batches are away
at once, which bounds memory here and in Ray's object store. Ray makes a batch again whose worker or node was lost.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.system.packages import require
from luthier.core.system.process import raise_pending_stop

RAY_WORKERS_VARIABLE = "LUTHIER_RAY_WORKERS"
"""How many workers of its cluster a job may use, where it may use any."""
Made = TypeVar("Made")
_WAITING = 3
"""Batches for each worker that are away at once."""
_RETRIES = 8
"""How often a batch whose worker was lost is made again."""
_LOOK_S, _SILENCE_S = 1.0, 30.0


class RayWorkers:
    """Workers of a Ray cluster, each a processor of some node."""

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        """`say` hears, once, that no worker is free."""
        self.count, self._say = count, say
        self._has_said = False

    @classmethod
    def of_job(cls, say: Callable[[str], None]) -> RayWorkers | None:
        """Those that this job may use; None where it may use none."""
        count = os.environ.get(RAY_WORKERS_VARIABLE, "")
        return cls(int(count), say) if count.isdecimal() and int(count) > 0 else None

    def map(self, job: Callable[..., Made], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Made]:
        """What the job makes of each, in order; an error of the job as it was raised."""
        ray = _connect()
        task = ray.remote(_do).options(num_cpus=1, max_retries=_RETRIES)
        waiting = deque[Any]()
        try:
            for values in arg_tuples:
                while waiting and (len(waiting) >= _WAITING * self.count or _is_ready(ray, waiting[0])):
                    yield self._take(ray, waiting)
                waiting.append(task.remote(pickle.dumps((job, values), pickle.HIGHEST_PROTOCOL)))
            while waiting:
                yield self._take(ray, waiting)
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _take(self, ray: Any, waiting: deque[Any]) -> Any:
        """The result of the first batch that is away."""
        silent_s = 0.0
        while not ray.wait([waiting[0]], timeout=_LOOK_S)[0]:
            raise_pending_stop()
            silent_s += _LOOK_S
            if silent_s >= _SILENCE_S and not self._has_said:
                self._has_said = True
                self._say(f"no worker of the Ray cluster has answered for {_SILENCE_S:.0f} s; `ray status` says why")
        try:
            return pickle.loads(ray.get(waiting.popleft()))  # noqa: S301  # of the cluster that this job is part of
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                hint = "install the same Luthier and the same plugins in the Python that Ray was started by"
                raise InputError(f"a worker of the Ray cluster lacks what it needs: {error.cause}", hint=hint) from None
            raise error.cause from None
        except ray.exceptions.RayError as error:
            what = f"a batch was lost {_RETRIES + 1} times with its worker ({type(error).__name__})"
            raise SystemResourceError(what, hint="memory may be short on the nodes; `ray status` shows them") from error


def _connect() -> Any:
    """Ray, as part of the cluster of this job; signals stay as they are."""
    require("ray", "ray", "`workers` of the executor `ray`")
    import ray

    if not ray.is_initialized():
        is_main = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if is_main else {}
        ray.init(log_to_driver=False)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray


def _is_ready(ray: Any, reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _do(request: bytes) -> bytes:
    """What a worker does."""
    job, values = pickle.loads(request)  # noqa: S301  # of the job that this worker belongs to
    return pickle.dumps(job(*values), pickle.HIGHEST_PROTOCOL)
