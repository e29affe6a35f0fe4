"""The budget of a recipe: hours and money after which a run stops, with its state kept.

What the steps take is recorded during the run in `ROOT/spending/`, by recipe and by artifact digest: a resumed run
continues counting. A step with changed settings is other work, and starts at zero.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions
from luthier.core.errors import Interrupted, UnknownName
from luthier.core.events import RunEvent
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.core.render import format_elapsed_time

if TYPE_CHECKING:
    from luthier.core.step import Step
    from luthier.recipe.executor import Executor, Placement
    from luthier.recipe.planner import PlannedStep, RecipePlan

_WRITE_S = 2.0
"""Seconds between two writings of what a step took so far."""


class RunBudget(BaseModel):
    """Limits of a recipe's steps, over all its runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    hours: float | None = Field(default=None, gt=0)
    """Hours that the steps may take together; two that are made at once count twice."""
    money: float | None = Field(default=None, gt=0)
    """What they may cost: hours of the machines that executors name, at the catalogue's list prices in US dollars, and
    what hosted techniques are told to cost (`price_per_million_tokens`)."""

    @model_validator(mode="after")
    def _bounds_something(self) -> RunBudget:
        if self.hours is None and self.money is None:
            raise ValueError("give hours, money or both")
        return self


class BudgetSpent(Interrupted):
    """The budget of the recipe is spent; finished steps and checkpoints are kept."""


class Spending(NamedTuple):
    """What steps took so far."""

    seconds: float = 0.0
    money: float = 0.0

    def add(self, other: Spending) -> Spending:
        """Both together."""
        return Spending(self.seconds + other.seconds, self.money + other.money)


def find_hourly_price(executor: Executor) -> float:
    """US dollars for an hour of a step on an executor: of all devices of the machine that it names; 0 where it names
    none."""
    from luthier.models.machine_cost import CPU, find_machine

    if (placed := executor.find_machine()) is None or placed[0] == CPU:
        return 0.0
    machine, count = placed
    return find_machine(machine).price * count


def find_hosted_price(step: Step, tokens: int | None) -> float:
    """Return the estimated price of a step's hosted job; 0 without one, or where it is unknown."""
    compute_price = getattr(getattr(step, "technique", None), "compute_price", None)
    return float((compute_price(tokens) if compute_price is not None and tokens is not None else None) or 0.0)


def read_spending(plan: RecipePlan) -> Spending:
    """Return what all runs of a recipe with a budget took for the current steps."""
    kept = _SpendingFile(plan).read()
    spending = Spending()
    for planned in plan:
        spending = spending.add(kept.get(planned.digest, Spending()))
    return spending


def forecast_spending(plan: RecipePlan, placement: Placement | None = None) -> Spending:
    """Estimate the remaining steps, as far as possible: here, or on the machines where they are placed."""
    from luthier.recipe.executor import Placement

    placement, spending = placement or Placement(), Spending()
    for planned in plan:
        if planned.forecast is not None:
            own = _forecast_placed(plan, planned, placement) or Spending(planned.forecast.seconds or 0.0)
            spending = spending.add(own).add(Spending(0.0, find_hosted_price(planned.step, planned.forecast.tokens)))
    return spending


def _forecast_placed(plan: RecipePlan, planned: PlannedStep, placement: Placement) -> Spending | None:
    """Estimate a step on the machine of its executor; None without one."""
    if (machine := placement.executor_of(planned).find_machine()) is None:
        return None
    try:
        estimate = plan.estimate_placement(planned, *machine)
    except UnknownName:  # said where its price is asked for
        return None
    return None if estimate is None else Spending(estimate.seconds, estimate.money)


def warn_of_budget(plan: RecipePlan, placement: Placement | None = None) -> list[str]:
    """A sentence for each bound of the budget that the forecast passes."""
    if (budget := plan.recipe.budget) is None:
        return []
    spent, ahead = read_spending(plan), forecast_spending(plan, placement)
    found = []
    if budget.hours is not None and spent.seconds + ahead.seconds > 3600 * budget.hours:
        so_far, to_come = format_elapsed_time(spent.seconds), format_elapsed_time(ahead.seconds)
        found.append(
            gettext_noop(
                f"the forecast passes the budget of {budget.hours:g} hours: {so_far} spent and about {to_come} ahead"
            )
        )
    if budget.money is not None and spent.money + ahead.money > budget.money:
        so_far, to_come = f"{spent.money:.2f}", f"{ahead.money:.2f}"
        found.append(
            gettext_noop(
                f"the forecast passes the budget of {budget.money:g} in money: {so_far} spent and about {to_come} ahead"
            )
        )
    return found


class _SpendingFile:
    """Spending of one recipe's steps, by digest, in the store's folder."""

    def __init__(self, plan: RecipePlan) -> None:
        recipe = plan.recipe
        self._store = plan.store
        self._name = f"spending/{digest_of([recipe.name, str(recipe.recipe_dir.absolute())])[:16]}.json"

    def read(self) -> dict[str, Spending]:
        """By digest; nothing where nothing was kept."""
        data = self._store.read_file(self._name)
        kept: dict[str, Any] = json.loads(data) if data else {}
        return {digest: Spending(*numbers) for digest, numbers in kept.items()}

    def add(self, digest: str, more: Spending) -> None:
        """Count more for one artifact."""
        path = self._store.root / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            kept = self.read()
            kept[digest] = kept.get(digest, Spending()).add(more)
            write_atomically(path, json.dumps(kept, sort_keys=True).encode())
            self._store.send_file(self._name)


@dataclass
class _StepClock:
    """A step that is being made."""

    planned: PlannedStep
    hourly_price: float
    is_elsewhere: bool
    since: float | None
    """Start of counting; None for a job that still waits."""
    counted: Spending = field(default_factory=Spending)
    """The part already recorded."""

    def now(self, clock: Callable[[], float]) -> Spending:
        """Return the time of this run so far."""
        seconds = 0.0 if self.since is None else clock() - self.since
        return Spending(seconds, seconds / 3600 * self.hourly_price)


class BudgetMeter:
    """Counts what the steps of a run take, as a listener of its events, and raises `BudgetSpent` when that is too much.

    A step in this process or one of its own ends by that error, as by Ctrl-C; the job of a step elsewhere is asked to
    stop. A hosted job, which cannot be stopped for less, is not begun where its price passes what is left.
    """

    def __init__(self, plan: RecipePlan, placement: Placement, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan, self._placement, self._clock = plan, placement, clock
        self._file = _SpendingFile(plan)
        self._before = read_spending(plan)
        self._steps = {planned.name: planned for planned in plan}
        self._running = dict[str, _StepClock]()
        self._turn = threading.RLock()
        self._written_at = clock()

    def __call__(self, event: RunEvent) -> bool:
        """Hear an event; returns whether a step elsewhere is to stop."""
        with self._turn:
            planned = self._steps.get(event.step)
            if event.kind == "start" and planned is not None:
                self._begin(planned)
            running = self._running.get(event.step.partition(".")[0])
            if running is None:
                return False
            if event.kind == "progress" and running.since is None:
                running.since = self._clock()
            if event.kind in ("done", "failed") and planned is not None:
                self._end(planned, is_done=event.kind == "done")
                return False
            if self._clock() - self._written_at >= _WRITE_S:
                self._write()
            if event.kind == "progress" and self.is_spent:
                if running.is_elsewhere:
                    return True
                raise self.error()
            return False

    def check(self) -> None:
        """Raise `BudgetSpent` where the budget is spent; for callers that wait for silent jobs."""
        with self._turn:
            if self.is_spent:
                raise self.error()

    @property
    def spent(self) -> Spending:
        """Return what all runs of the recipe took so far, this run's running steps included."""
        spending = self._before
        for running in self._running.values():
            now = running.now(self._clock)
            spending = spending.add(Spending(now.seconds, now.money))
        return spending

    @property
    def is_spent(self) -> bool:
        """Return whether a limit is reached."""
        budget, spent = self._plan.recipe.budget, self.spent
        assert budget is not None, "only a recipe with a budget has a meter"
        return (budget.hours is not None and spent.seconds >= 3600 * budget.hours) or (
            budget.money is not None and spent.money >= budget.money
        )

    def error(self, more: str = "") -> BudgetSpent:
        """The error that the budget is spent, at its place in the recipe."""
        recipe, spent = self._plan.recipe, self.spent
        budget = recipe.budget
        assert budget is not None
        by_hours = budget.hours is not None and spent.seconds >= 3600 * budget.hours
        name, bound = ("hours", budget.hours) if by_hours else ("money", budget.money)
        so_far = format_elapsed_time(spent.seconds) if by_hours else f"{spent.money:.2f} in money"
        message = f"the budget of {bound:g} {'hours' if by_hours else 'in money'} is spent: {so_far} so far{more}"
        hint = f"finished steps and checkpoints are kept; a larger one goes on from there: `budget.{name}=…`"
        return BudgetSpent(message, where=recipe.where(("budget", name)), hint=hint)

    def _begin(self, planned: PlannedStep) -> None:
        executor = self._placement.executor_of(planned)
        if self.is_spent:
            raise self.error(f", and {planned.name!r} is not made yet")
        price = find_hosted_price(planned.step, planned.forecast.tokens if planned.forecast else None)
        budget = self._plan.recipe.budget
        if price and budget is not None and budget.money is not None and self.spent.money + price > budget.money:
            where = self._plan.recipe.where(("budget", "money"))
            message = f"the job of {planned.name!r} would cost about {price:.2f}, and of the budget of {budget.money:g}"
            message = f"{message} in money {max(0.0, budget.money - self.spent.money):.2f} are left"
            raise BudgetSpent(message, where=where, hint="nothing was sent; take fewer rows, or raise `budget.money`")
        since = None if executor.is_elsewhere else self._clock()
        hourly = find_hourly_price(executor) if budget is not None and budget.money is not None else 0.0
        self._running[planned.name] = _StepClock(planned, hourly, executor.is_elsewhere, since)

    def _end(self, planned: PlannedStep, *, is_done: bool) -> None:
        running = self._running[planned.name]
        self._write()
        del self._running[planned.name]
        more = Spending()
        if is_done and running.is_elsewhere:  # a job may have made it in silence, or before this run looked
            seconds = float(self._plan.store.open(planned.digest).timing().get("seconds", 0.0))
            rest = max(0.0, seconds - running.counted.seconds)
            more = Spending(rest, rest / 3600 * running.hourly_price)
        if is_done:
            more = more.add(
                Spending(0.0, find_hosted_price(planned.step, planned.forecast.tokens if planned.forecast else None))
            )
        self._file.add(planned.digest, more)
        self._before = self._before.add(running.counted).add(more)

    def _write(self) -> None:
        """Write down what the running steps took since the last time."""
        self._written_at = self._clock()
        for running in self._running.values():
            now = running.now(self._clock)
            more = Spending(now.seconds - running.counted.seconds, now.money - running.counted.money)
            self._file.add(running.planned.digest, more)
            running.counted = now

    def close(self) -> None:
        """Write down what is left when a run ends."""
        with self._turn:
            self._write()
            self._running.clear()


__all__ = [
    "BudgetMeter", "BudgetSpent", "RunBudget", "Spending", "find_hourly_price", "forecast_spending", "read_spending",
    "warn_of_budget",
]  # fmt: skip
