"""Expected cost of each step where it is placed: time, memory, bytes and money.

On this machine the plan's own forecast counts. Elsewhere a training is estimated for the machine that its executor
names; where it names none, or the step trains no network, nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.core.errors import UnknownName
from luthier.recipe.executor import Placement
from luthier.recipe.planner import PlannedStep, RecipePlan

Range = tuple[float, float, float]
"""A number with the ends of its interval: low, expected, high."""


@dataclass(frozen=True, kw_only=True)
class PlacedCost:
    """One step of a plan, where it goes, and what that is expected to take; None is not known."""

    name: str
    kind: str
    executor: str
    cached: bool
    seconds: Range | None = None
    memory: int | None = None
    """Bytes at the peak: of this machine, or of one device elsewhere."""
    bytes_sent: float | None = None
    """By one device to the others, in all."""
    money: Range | None = None
    """US dollars."""
    how: str = ""

    def as_json(self) -> dict[str, Any]:
        """The step as `plan --on --json` prints it."""
        names = ("executor", "memory", "bytes_sent", "how")
        ranges = {
            name: None if found is None else dict(zip(("low", "expected", "high"), found, strict=True))
            for name, found in (("seconds", self.seconds), ("money", self.money))
        }
        return {name: getattr(self, name) for name in names} | ranges


def estimate_placed_costs(plan: RecipePlan, placement: Placement) -> list[PlacedCost]:
    """The steps of a plan in order, with what each is expected to take where it goes."""
    return [_estimate(plan, planned, placement) for planned in plan]


def _estimate(plan: RecipePlan, planned: PlannedStep, placement: Placement) -> PlacedCost:
    executor = placement.executor_of(planned)
    known: dict[str, Any] = {
        "name": planned.name,
        "kind": planned.step.kind,
        "executor": executor.kind,
        "cached": planned.cached,
    }
    if planned.cached:
        return PlacedCost(**known)
    if not executor.is_elsewhere:
        cost = planned.forecast
        seconds = None if cost is None or cost.seconds is None else (cost.seconds,) * 3
        how = cost.how if cost is not None else ""
        return PlacedCost(
            **known,
            seconds=seconds,
            memory=cost.peak_bytes if cost is not None else None,
            money=(0.0, 0.0, 0.0),
            how=how,
        )
    if (machine := executor.find_machine()) is None:
        return PlacedCost(**known, how="not known: the executor names no `machine`")
    try:
        estimate = plan.estimate_placement(planned, *machine)
    except UnknownName as error:  # accelerators that the catalogue does not have
        return PlacedCost(**known, how=f"not known: {error.message}")
    if estimate is None:
        return PlacedCost(**known, how="not known: the step trains no network, or its inputs are not known yet")
    return PlacedCost(
        **known,
        seconds=(estimate.seconds_low, estimate.seconds, estimate.seconds_high),
        memory=estimate.memory,
        bytes_sent=estimate.bytes_sent,
        money=(estimate.money_low, estimate.money, estimate.money_high),
        how=f"{machine[1]} × {machine[0]}; {estimate.how}",
    )


__all__ = ["PlacedCost", "estimate_placed_costs"]
