"""What every part of a run works with: one `RunContext`, which a role extends only where it needs more.

Nothing in it decides bytes by itself: the recipe's folder and the folder of what is kept are places, and the seed is
part of a step's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from luthier.core.errors import ModelError
from luthier.core.events import RunEventEmitter, StepEventEmitter


def _no_model(name: str) -> Path:
    raise ModelError(f"the model {name!r} is not available here", hint="use this scorer in an evaluation")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where a part works, by which seed, and how it reports."""

    recipe_dir: Path
    """The recipe's folder: relative paths in settings start here."""
    seed: int = 0
    events: StepEventEmitter = field(default_factory=lambda: RunEventEmitter().of(""))
    """Hears of progress, notes and warnings; nobody hears them by default."""
    kept: Path | None = None
    """Kept from one run to the next, for what is found by all that decides it: whatever is missing is made anew."""
    models: Callable[[str], Path] = _no_model
    """The folder of a model by its name, in Hugging Face's layout."""

    @property
    def cache_dir(self) -> Path:
        """`kept`, for parts that cannot work without."""
        assert self.kept is not None, "whoever asks a part that keeps answers names the folder for them"
        return self.kept

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        done: float | None = None,
        total: float = 0,
        unit: str = "steps",
    ) -> bool:
        """Pass the numbers of one of the work's own steps (from 1) to who listens; returns whether to stop.

        How far the work is, is `step` of `total`, or `done` of `total` in another unit. A recipe's step that is to stop
        raises `Interrupted`: what it did so far is no artifact, and its scratch is kept.
        """
        if done is None:
            return self.events.progress(step, total, unit, **metrics)
        return self.events.progress(done, total, unit, step=step, **metrics)
