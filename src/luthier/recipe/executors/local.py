"""Steps made in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from luthier.core.artifact import Artifact, Manifest
from luthier.core.component import iter_components
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import RunEventEmitter
from luthier.core.files import translate_write_errors
from luthier.core.messages import gettext_noop
from luthier.core.render import format_elapsed_time
from luthier.core.step import StepContext, StepCostEstimate
from luthier.core.system.process import resident_bytes
from luthier.core.timings import LEAST_S, record_timing
from luthier.recipe.children import StepChildRunner
from luthier.recipe.executor import Executor
from luthier.recipe.planner import PlannedStep, RecipePlan, get_peak_memory, read_step_contents, reset_peak_memory


class LocalExecutor(Executor):
    """In this process, one step after the other."""

    kind: Literal["local"] = "local"

    def make_artifact(self, plan: RecipePlan, planned: PlannedStep, events: RunEventEmitter) -> Artifact:
        store, started = plan.store_of(planned), time.perf_counter()
        with translate_write_errors(store.root):
            reset_peak_memory()
            expected = _expect(planned, plan, events)
            folder, scratch = store.begin(planned.digest)
            references, steps = plan.recipe.references(planned.step), plan.recipe.all_steps()
            inputs = {field: plan.store.open(digest).check() for field, digest in planned.inputs.items()}
            with (
                StepChildRunner(plan, planned, events) as children,
                store.send_work(planned.digest, planned.step.checkpoints, events.of(planned.name).warning),
            ):
                work = StepContext(
                    name=planned.name,
                    upstream={field: steps[name] for field, name in references.items()},
                    children=children,
                    inputs=inputs,
                    folder=folder,
                    scratch=scratch,
                    recipe_dir=plan.recipe.recipe_dir,
                    seed=plan.recipe.seed,
                    events=events.of(planned.name),
                    kept=store.kept,
                )
                measures = planned.step.make(work)
            _check_still(planned, plan)
            seconds = time.perf_counter() - started
            if planned.step.tells_of_machine and measures.get("train_s", seconds) >= LEAST_S:
                record_timing(planned.step.kind, measures)
            return store.finish(_manifest(planned, plan), _timing(planned, expected, measures, seconds))


def _check_still(planned: PlannedStep, plan: RecipePlan) -> None:
    """Check that the inputs that were read are those of the artifact's digest."""
    if not any(part.living for part in iter_components(planned.step)):
        return
    if read_step_contents(plan.recipe, planned.name) != planned.contents:
        hint = "run it again; for a table that always grows, read below a bound: `until`"
        message = "what was read changed on the way, so nothing was kept"
        raise DataError(message, where=SourceLocation(field="source"), hint=hint)


def _manifest(planned: PlannedStep, plan: RecipePlan) -> Manifest:
    step = planned.step
    return Manifest(
        digest=planned.digest,
        kind=step.kind,
        makes=step.makes,
        settings=step.hashed_settings(),
        inputs=dict(planned.inputs),
        reads=dict(planned.contents),
        code=step.code(),
        seed=0 if step.shared else plan.recipe.seed,
        files=[],
    )


def _expect(planned: PlannedStep, plan: RecipePlan, events: RunEventEmitter) -> StepCostEstimate:
    """Emit the step's cost estimate again, now that its inputs exist; the plan may have used predictions."""
    now = plan.estimate_cost(planned).add_held_bytes(resident_bytes())
    if now.seconds is not None:
        before = planned.forecast if planned.forecast and now.is_far_from(planned.forecast) else None
        suffix = f"; the plan said {_format_cost(before)}" if before and before.seconds is not None else ""
        cost, basis = _format_cost(now), now.how
        expected = gettext_noop(f"about {cost} ({basis})")
        events.of(planned.name).note(gettext_noop(f"will take {expected}") + suffix)
    return now


def _format_cost(forecast: StepCostEstimate) -> str:
    time = format_elapsed_time(forecast.seconds or 0)
    if not forecast.peak_bytes:
        return time
    memory_figure = f"{forecast.peak_bytes / 1e9:.1f}"
    return gettext_noop(f"{time} and {memory_figure} GB")


def _timing(
    planned: PlannedStep, expected: StepCostEstimate, measures: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Return measured and predicted cost, and the plan's when that was far off."""
    planned_cost = planned.forecast or expected
    return {
        "seconds": seconds,
        "peak_bytes": get_peak_memory(),
        "measures": dict(measures),
        "predicted": asdict(expected),
        **({"planned": asdict(planned_cost)} if expected.is_far_from(planned_cost) else {}),
    }
