"""Run a stage on the workers of a Ray cluster."""

from __future__ import annotations

import os
import pickle
import platform
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from luthier.core.component import digest_plugin_code, iter_components
from luthier.core.errors import InputError, SourceLocation, SystemResourceError
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision
from luthier.core.system.packages import require
from luthier.core.system.process import raise_pending_stop
from luthier.data.engine.reader import external_fingerprints
from luthier.data.engine.stage import Stage, StageInput, StageOutput, dump_stage, load_stage
from luthier.data.operator import Operator

RAY_WORKERS_VARIABLE = "LUTHIER_RAY_WORKERS"
"""How many workers of its cluster a job may use, where it may use any."""
Result = TypeVar("Result")
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

    def map(self, job: Callable[..., Result], arg_tuples: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
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


def run_ray_stage(stage: Stage, fed: Iterator[StageInput], workers: RayWorkers) -> Iterator[StageOutput]:
    """Take batches through a stage, in order; `InputError` where a machine of the cluster has other code or files."""
    setup, identity = dump_stage(replace(stage, kept=None)), _identify(stage)  # what models answered stays at home
    return workers.map(_run, ((setup, identity, stage_input) for stage_input in fed))


def _operators(stage: Stage) -> list[Operator]:
    return [*(named_operator.operator for named_operator in (*stage.rows, *stage.sets)), *stage.guards]


def _identify(stage: Stage) -> str:
    """A digest of what decides the rows that leave a stage beside its settings: its code, and the files it reads."""
    parts = [part for operator in _operators(stage) for part in iter_components(operator)]
    own = code_revision(__name__, *sorted({type(part).__module__ for part in parts}))
    plugins = [digest_plugin_code(operator) for operator in _operators(stage)]
    return digest_of([own, plugins, [external_fingerprints(part, stage.recipe_dir) for part in _operators(stage)]])


@lru_cache(maxsize=1)
def _load(setup: str, identity: str) -> Stage:
    stage = load_stage(setup)
    for operator in _operators(stage):
        for part in iter_components(operator):
            part.download(lambda _: None)
    if _identify(stage) != identity:
        message = f"the machine {platform.node()} has other code, or sees other files of the recipe, than the job"
        hint = "install the same Luthier and plugins on all nodes, and keep the recipe's folder where they share it"
        raise InputError(message, where=SourceLocation(field="ops"), hint=hint)
    return stage


def _run(setup: str, identity: str, fed: StageInput) -> StageOutput:
    return _load(setup, identity).run(fed)
