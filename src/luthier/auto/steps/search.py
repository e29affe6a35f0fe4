"""The step that tries other settings of a training under a budget, and makes the model of the best that is sure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from luthier.core.component import BasicMarker, components_by_kind
from luthier.core.errors import DataError, LuthierError, ModelError, RecipeError, SourceLocation
from luthier.core.expressions import format_duration, parse_duration
from luthier.core.render import format_elapsed_time
from luthier.core.step import (
    ArtifactSpec,
    NotHashed,
    PlanContext,
    Reads,
    Step,
    StepContext,
    StepCostEstimate,
)
from luthier.core.timings import read_machine_timings
from luthier.data.steps.prepare import Prepare
from luthier.eval.probe import Probe
from luthier.eval.steps.evaluate import Evaluate
from luthier.metrics.metric import Metric
from luthier.tune.steps.tune import Tune

if TYPE_CHECKING:
    from luthier.artifacts.search import AimRecord
    from luthier.auto.search.space import SearchSpace
    from luthier.models.describe import ModelDescription

LEAST_BUDGET = 2.0
YARDSTICK: Literal["validation"] = "validation"
TEST: Literal["test"] = "test"
"""The splits of the data by which trials are compared, and by which the finalists are."""
_VARYING = ("latency", "price")
"""Aims that differ from run to run."""


def _read_budget(value: Any) -> Any:
    """Return a count unchanged; a time is validated and kept as written."""
    if isinstance(value, str):
        parse_duration(value)
    elif isinstance(value, int | float) and value < LEAST_BUDGET:
        raise ValueError(f"a search needs the work of at least {LEAST_BUDGET:g} trainings, got {value:g}")
    return value


class ModelSearch(Step):
    """Search for the technique, settings and data options of the best training, within a budget of work.

    Trials are trained for a part of the whole first, and the best go on. They are compared on the validation rows,
    which are fixed before any data option. Finalists are trained whole by several seeds and compared on the test rows
    with the training as it is, which is taken where none is clearly better. The artifact is the chosen model, with
    `search.json` and `trials.parquet`.
    """

    kind: Literal["search"] = "search"
    makes: ClassVar[str] = "model"
    other_names: ClassVar[Mapping[str, str]] = {
        "space": "over",
        "search_space": "over",
        "n_trials": "max_trials",
        "num_samples": "max_trials",
        "n_jobs": "workers",
        "max_concurrent_trials": "workers",
        "points_to_evaluate": "first",
        "objective": "metric",
        "timeout": "budget",
        "time_budget_s": "budget",
    }

    of: Annotated[str, Reads("model")]
    """The step `tune` whose settings are searched; as it is, it is trial 0."""
    model: Annotated[str | None, Reads("model", optional=True, through="of")] = None
    """The step whose model is tuned; that of `of` when not given. Needed where `of` has none and a trial does."""
    over: dict[str, Any] = Field(default_factory=dict)
    """What is tried, by dotted path within `of`: a list of values, `{low, high, log, integer}`, or `auto` for what the
    part itself offers. `technique: [lora, plain]` opens a branch for each; a path through `data` changes the step that
    prepares the data (`data.ops.quality: [true, false]`). Left out: the learning rate, and what the parts offer."""
    metric: Annotated[Metric, BasicMarker()]
    """What is to be best, on the validation rows and at the end on the test rows."""
    budget: Annotated[
        Annotated[float, Field(ge=LEAST_BUDGET, allow_inf_nan=False)] | str,
        BeforeValidator(_read_budget),
        BasicMarker(),
    ]
    """The work of all trials, in whole trainings of `of` with an evaluation each. A time such as `90m` is refused with
    the number that it comes to on this machine: a budget of work finds the same model everywhere."""
    first: Literal["advice"] | tuple[dict[str, Any], ...] = "advice"
    """What is tried first after the settings of `of`: `advice`, with which each technique begins as it is advised for
    so many rows, or a list of settings by the same paths as in `over`."""
    max_trials: int | None = Field(default=None, ge=2)
    """Ends the search after the rung in which it has so many trials; the budget alone ends it when not given."""
    finalists: int = Field(default=3, ge=1, le=10)
    """How many trials at most are trained whole and compared with `of` at the end."""
    seeds: int = Field(default=2, ge=1, le=20)
    """By how many seeds each finalist and `of` are trained. These trainings come on top of the budget."""
    aims: tuple[str, ...] = ()
    """What else finalists are measured in, for the Pareto front: other metrics, `parameters`, `memory`, `forgetting`,
    or a probe's number such as `bias.gap`."""
    constraints: tuple[str, ...] = ()
    """Rules that a finalist must meet on the test rows to be taken, such as `accuracy >= 0.9` or `bias.gap <= of`."""
    prefer: str | None = None
    """What decides between finalists that are about as good: `smallest within 1 point`."""
    probes: tuple[Probe, ...] = ()
    """Further measures of each finalist, for `aims` and `constraints`."""
    workers: Annotated[int, Field(ge=1, le=64), NotHashed()] = 1
    """Trials of a rung that run at once: jobs where `of` says by `on` where it is made, such as `on: ray`, else in
    processes of their own. The same trials are chosen with any number."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that each trial computes with, in a process of its own; all processors, in the search's process, when not
    given. Sums depend on it, so that it is a part of what is searched; more than one worker on this machine needs
    it."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        from luthier.auto.search.pareto import find_contradiction, parse_aim
        from luthier.auto.search.verdict import parse_preference

        if why := find_contradiction(self.constraints):
            raise ValueError(f"{why}; leave one of them out")
        for number, name in enumerate(self.aims):
            parse_aim(name, field=f"aims.{number}")
        named = [*self.aims, *([parse_preference(self.prefer).measure] if self.prefer else [])]
        if varying := next((name for name in named if name in _VARYING), None):
            raise ValueError(f"{varying} differs from run to run, and the same search must find the same model")
        return self

    @property
    def aim_records(self) -> tuple[AimRecord, ...]:
        """The metric and the further aims."""
        from luthier.auto.search.pareto import parse_aim

        names = dict.fromkeys((self.metric.kind, *self.aims))
        return tuple(parse_aim(name) for name in names)

    def build_space(self, steps: Mapping[str, Step], model: ModelDescription | None = None) -> SearchSpace:
        """What is tried, given the steps behind this one; `RecipeError` for what `of` does not have.

        What cannot go with the base model is left out where that is known.
        """
        from luthier.auto.search.space import SearchSpace

        of = require_tune(self.of, steps)
        space = SearchSpace.build(of, self.over, steps, model)
        for kind, technique in space.techniques.items():
            if technique.reads_model and (of.model or "model") not in steps:
                where, hint = SourceLocation(field="model"), "add `model: model` for the recipe's own"
                raise RecipeError(f"{kind} tunes a base model, and {self.of!r} reads none", where=where, hint=hint)
        return space

    def list_children(self, steps: Mapping[str, Step]) -> Iterable[Step]:
        """The trainings and evaluations: each branch, and each value that is tried, once."""
        self._check_workers(require_tune(self.of, steps))
        _check_held_out(steps)
        yield self.evaluation("data", "model", TEST)
        space = self.build_space(steps)
        for branch, paths in space.branches.items():
            for path, tried in paths.items():
                for value in tried.values or (tried.low, tried.high):
                    yield from _apply_or_nothing(space, {"technique": branch, path: value})
            yield from _apply_or_nothing(space, {"technique": branch})

    def evaluation(self, data: str, model: str, split: Literal["validation", "test"]) -> Evaluate:
        """Return the evaluation of a model: on validation rows by the metric alone, on test rows by all aims."""
        if split == YARDSTICK:
            return Evaluate(
                data=data, model=model, metrics=(self.metric,), split=split, baselines=(), tasks=(), compare_base=False
            )
        names = [*self.aims, *(rule.split()[0] for rule in self.constraints)]
        kinds = components_by_kind(Metric).keys() - {self.metric.kind}
        more = [Metric.parse(name) for name in dict.fromkeys(names) if name in kinds]
        forgets = any(name.startswith("forgetting") for name in names)
        return Evaluate(
            data=data,
            model=model,
            metrics=(self.metric, *more),
            split=split,
            tasks=None if forgets else (),
            compare_base=forgets,
            probes=self.probes,
        )

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Search, and write the chosen model's files with `search.json` and `trials.parquet`."""
        from luthier.auto.search.run import SearchRun

        return SearchRun(self, work).run()

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """The budget times what `of` takes, and the finalists' trainings; refuse what cannot be searched."""
        require_tune(self.of, {self.of: plan_context.upstream["of"]})
        cost_estimate = plan_context.forecasts.get("of", StepCostEstimate())
        self._check_splits(plan_context)
        if isinstance(self.budget, str):
            raise self._translate_time_budget(cost_estimate)
        further = self._count_finalist_trainings()
        if cost_estimate.seconds is None:
            return replace(
                cost_estimate, tokens=None, how=f"unknown until {self.of!r} is made: {self._work()} times as long"
            )
        each, how = self._estimate_unit(cost_estimate.seconds, plan_context)
        at_once = self._count_trials_at_once(plan_context)
        times = f"{self.budget:g} trainings of {self.of!r} with an evaluation ({format_elapsed_time(each)} each{how})"
        return StepCostEstimate(
            seconds=(self.budget + further) * each / at_once,
            peak_bytes=cost_estimate.peak_bytes,
            how=f"{times} for trials, and {further} at most for finalists" + f", {at_once} at once" * (at_once > 1),
        )

    def _count_trials_at_once(self, plan_context: PlanContext) -> int:
        """Return how many trials run concurrently: `workers`, as far as there are processors."""
        from luthier.models.cost import count_cores

        if self.threads is None or plan_context.upstream["of"].on is not None:
            return self.workers
        return min(self.workers, max(1, count_cores() // self.threads))

    def _estimate_unit(self, training_s: float, plan_context: PlanContext) -> tuple[float, str]:
        """Seconds of one training of `of` with its evaluation, given those of the training, and how they are known:
        by what trials of the last search took, else by what an evaluation is expected to take."""
        measured = plan_context.history.get("measures", {})
        work = measured.get("work", 0.0) * measured.get("of_s", 0.0)
        if work > 0:
            return training_s * measured["trial_s"] / work, "; as in the last search"
        return training_s + self._estimate_evaluation(plan_context), ""

    def _estimate_evaluation(self, plan_context: PlanContext) -> float:
        """Seconds of an evaluation on validation rows, as far as `of` is made; 0 else."""
        from luthier.models.load import get_training_data

        artifact = plan_context.inputs.get("of")
        data = get_training_data(artifact) if artifact is not None else None
        if artifact is None or data is None:
            return 0.0
        of = require_tune(self.of, {self.of: plan_context.upstream["of"]})
        context = PlanContext(
            inputs={"data": data, "model": artifact},
            upstream={"model": of},
            recipe_dir=plan_context.recipe_dir,
            paces=read_machine_timings("evaluate"),
        )
        return self.evaluation(of.data, self.of, YARDSTICK).estimate_cost(context).seconds or 0.0

    def _check_workers(self, of: Step) -> None:
        """`RecipeError` where workers would share the processors of this machine as it comes."""
        if self.workers > 1 and self.threads is None and of.on is None:
            what = f"{self.workers} workers share the processors: give each trial its `threads`"
            hint = f"write `threads: 1`, or let {self.of!r} be made elsewhere by `on`"
            raise RecipeError(what, where=SourceLocation(field="workers"), hint=hint)

    def _work(self) -> str:
        return f"{self.budget} and at most {self._count_finalist_trainings()}"

    def _count_finalist_trainings(self) -> int:
        """Trainings that finalists take at most: `of` itself is made by one seed."""
        return (self.finalists + 1) * self.seeds - 1

    def _translate_time_budget(self, known: StepCostEstimate) -> RecipeError:
        """The error for a budget of time, with the work that it is on this machine."""
        where = SourceLocation(field="budget")
        seconds = float(parse_duration(self.budget))
        if known.seconds is None:
            what = f"a budget is work, and how long {self.of!r} takes here is not known yet"
            return RecipeError(what, where=where, hint=f"run it first: `--only {self.of}`; or write budget: 8")
        each = known.seconds
        finalists = self._count_finalist_trainings()
        takes, least = format_duration(seconds), format_elapsed_time(each * (LEAST_BUDGET + finalists))
        if seconds < each * (LEAST_BUDGET + finalists):
            what = (
                f"{takes} is too short here: {self.of!r} takes {format_elapsed_time(each)}, and the smallest search is "
                f"{LEAST_BUDGET:g} such trainings beside {finalists} of finalists, about {least}"
            )
            hint = f"write budget: {LEAST_BUDGET:g}, with fewer `finalists` or `seeds` if that is too long"
            return RecipeError(what, where=where, hint=hint)
        number = round(seconds / each - finalists, 1)
        what = (
            f"a budget is work, so that every machine finds the same model: {takes} here is {number:g} trainings of "
            f"{self.of!r}, of {format_elapsed_time(each)} each, beside {finalists} of finalists"
        )
        return RecipeError(what, where=where, hint=f"write budget: {number:g}")

    def _check_splits(self, plan_context: PlanContext) -> None:
        """Raise `DataError` where the data of `of`, as far as it exists, has no rows for comparison."""
        from luthier.artifacts.dataset import has_split
        from luthier.models.load import get_training_data

        if (artifact := plan_context.inputs.get("of")) is not None and (
            data := get_training_data(artifact)
        ) is not None:
            for split in (YARDSTICK, TEST):
                if not has_split(data, split):
                    raise build_missing_split_error(split)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict as for `of`; the technique may differ from the chosen one's."""
        return plan_context.outlines.get("of", ArtifactSpec())


def _check_held_out(steps: Mapping[str, Step]) -> None:
    """`DataError` where no step that prepares data holds out rows to compare by."""
    prepared = [step for step in steps.values() if isinstance(step, Prepare)]
    for split in (YARDSTICK, TEST):
        if prepared and not any(getattr(step.split, split) for step in prepared):
            raise build_missing_split_error(split)


def build_missing_split_error(split: str) -> DataError:
    """The error for data that hold no rows to compare trials by."""
    share = "0.15" if split == YARDSTICK else "0.1"
    use = "trials are compared by" if split == YARDSTICK else "finalists are compared by"
    hint = f"write `split: {{{split}: {share}}}` in the step that prepares the data"
    return DataError(f"the data have no {split} rows, which {use}", where=SourceLocation(field="of"), hint=hint)


def require_tune(name: str, steps: Mapping[str, Step]) -> Tune:
    """The step that is searched; `ModelError` where it is no training."""
    found = steps[name]
    if isinstance(found, Tune):
        return found
    what = f"{name!r} is of kind {found.kind}, and only trainings have settings to search"
    raise ModelError(what, where=SourceLocation(field="of"), hint="name a step of kind `tune`")


def _apply_or_nothing(space: SearchSpace, settings: Mapping[str, Any]) -> Iterable[Step]:
    """The steps of some settings; none where a part refuses them."""
    try:
        return space.apply(settings).values()
    except LuthierError:
        return ()
