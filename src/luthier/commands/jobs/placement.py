"""Placement of fine-tuning jobs: on which executor, and how many at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from luthier.commands.jobs.writing import TUNE
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.core.store import Store
from luthier.recipe.batch import BatchExecutor
from luthier.recipe.executor import Executor, Placement, parse_placement
from luthier.recipe.launches import Launch

_DATA = "data"


@dataclass(frozen=True)
class JobPlacement:
    """Executors of the jobs' steps, and the number of concurrent jobs."""

    words: tuple[str, ...] = ()
    """Arguments of `luthier run --on`."""
    placement: Placement = field(default_factory=Placement)
    limit: int = 1

    @classmethod
    def parse(cls, words: Iterable[str], limit: int) -> JobPlacement:
        """From the words of an option; `InputError` for one that names a step which not every job has."""
        words = tuple(words)
        placement = parse_placement(words)
        if unknown := sorted(placement.by_step.keys() - {_DATA, TUNE}):
            hint = f"a job has the steps {_DATA!r} and {TUNE!r}"
            raise InputError(f"jobs have no step {unknown[0]!r}", where=SourceLocation(field="--on"), hint=hint)
        return cls(words, placement, limit)

    def check(self, store: Store) -> None:
        """`InputError` where jobs elsewhere could not reach the store, or the folders of jobs in it."""
        for step in (_DATA, TUNE):
            executor = self._executor_of(step)
            if isinstance(executor, BatchExecutor):
                executor.check_reach((store.root / "jobs").absolute(), store)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a scheduler's jobs train the models."""
        executor = self._executor_of(TUNE)
        return executor is not None and executor.is_elsewhere

    def _executor_of(self, step: str) -> Executor | None:
        return self.placement.by_step.get(step) or self.placement.default

    def cancel(self, launch: Launch) -> None:
        """End a job of the scheduler; `LuthierError` where that is not the one of this server, or refuses."""
        executor = self._executor_of(launch.step)
        if not isinstance(executor, BatchExecutor) or executor.kind != launch.executor:
            what = f"the job {launch.job} is with {launch.executor}, and this server has no access to that"
            raise LuthierError(what, hint=f"start it with --on {launch.executor}, or cancel the job there")
        executor.cancel_job(launch.job)
