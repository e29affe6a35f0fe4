"""Check whether a job fits into this machine's memory, by its plan."""

from __future__ import annotations

from pathlib import Path

from luthier.recipe.executor import Placement
from luthier.recipe.schema import Recipe

_MEMORY = Path("/proc/meminfo")


def estimate_recipe_memory(recipe: Path, placement: Placement) -> int:
    """The most memory that any step still to be made on this machine will take."""
    plan = Recipe.load(recipe).plan()
    here = [step for step in plan if not placement.executor_of(step).is_elsewhere]
    return max((step.forecast.peak_bytes or 0 for step in here if step.forecast is not None), default=0)


def read_machine_memory() -> tuple[int, int] | None:
    """Return this machine's total and free memory; None where the system does not report it."""
    if not _MEMORY.is_file():
        return None
    meminfo = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="ascii").splitlines())
    return int(meminfo["MemTotal"].split()[0]) * 1024, int(meminfo["MemAvailable"].split()[0]) * 1024
