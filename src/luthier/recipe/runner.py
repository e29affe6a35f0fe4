"""Run a recipe step by step, and record the run in the ledger and a log.

Processes that run the same recipe share the work. A run continues where a killed run stopped. The ledger and the log
outlive the terminal.
"""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.core.artifact import Artifact
from luthier.core.component import iter_components
from luthier.core.db import Ledger, RunStep, State
from luthier.core.errors import (
    FAULT_EXIT_CODE,
    DataError,
    Interrupted,
    LuthierError,
    ModelError,
    SourceLocation,
    SystemResourceError,
    UnknownName,
    did_you_mean,
)
from luthier.core.events import Listener, RunEvent, RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.render import format_elapsed_time
from luthier.core.system.process import raise_pending_stop, set_thread_wait_policy
from luthier.recipe.budget import BudgetMeter, BudgetSpent, warn_of_budget
from luthier.recipe.executor import Executor, Placement
from luthier.recipe.launches import describe_open_launches
from luthier.recipe.outcomes import remember_outcomes
from luthier.recipe.planner import PlannedStep, RecipePlan, build_recipe_plan
from luthier.recipe.schema import Recipe

if TYPE_CHECKING:
    import polars as pl

    from luthier.core.store import Store
    from luthier.recipe.predict import Prediction, Row

EXIT_OF_VERDICT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The artifact of one step of a run, and whether it was cached."""

    artifact: Artifact
    cached: bool
    seconds: float

    def frame(self, name: str) -> pl.DataFrame:
        """One of the artifact's Parquet tables as a polars frame."""
        import polars as pl

        return pl.read_parquet(self.artifact.path(name))

    def model(self) -> Any:
        """The model as a plain transformers or PEFT object; a plain classifier as scikit-learn's pipeline."""
        from luthier.models.load import is_plain_classifier, load_model
        from luthier.models.open_classifier import open_pipeline

        if (makes := self.artifact.manifest.makes) != "model":
            raise ModelError(f"this step makes a {makes}, not a model", hint="take the step that tunes")
        return (
            open_pipeline(self.artifact.folder)
            if is_plain_classifier(self.artifact)
            else load_model(self.artifact).model
        )

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Of an evaluation: `value`, `low`, `high` and `signature` of each metric, for the model that it is about."""
        if (makes := self.artifact.manifest.makes) != "evaluation":
            raise ModelError(f"this step makes a {makes}, not an evaluation", hint="take the step that evaluates")
        found = EvaluationMetrics.read(self.artifact).models[EvaluationSummary.read(self.artifact).subject]
        return {name: score.as_json() for name, score in found.items()}

    def predict(self, rows: Iterable[Row], **settings: Any) -> list[Prediction]:
        """What the step's model says of new rows; see `luthier.recipe.predict.predict` for rows and settings."""
        from luthier.recipe.predict import predict

        if (makes := self.artifact.manifest.makes) != "model":
            raise ModelError(f"this step makes a {makes}, not a model", hint="take the step that tunes")
        return predict(self.artifact, rows, **settings)

    def as_json(self) -> dict[str, Any]:
        """The step as `run --json` prints it."""
        path = str(self.artifact.folder)
        return {
            "artifact": self.artifact.digest,
            "cached": self.cached,
            "seconds": round(self.seconds, 3),
            "path": path,
        }


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The artifacts of a run, by step."""

    recipe: Recipe
    plan: RecipePlan
    steps: Mapping[str, StepResult]
    exit_code: int
    """0 done, 1 a gate failed, 3 a gate is inconclusive."""

    def __getitem__(self, name: str) -> StepResult:
        if name not in self.steps:
            raise UnknownName(f"there is no step {name!r}", hint=did_you_mean(name, self.steps))
        return self.steps[name]

    def __str__(self) -> str:
        """A table of the steps, and what came of evaluations and gates."""
        from luthier.recipe.report import summarize_artifacts

        rows = [("step", "kind", "state", "time", "artifact")]
        for name, step in self.steps.items():
            state, took = ("cached", "") if step.cached else ("made", format_elapsed_time(step.seconds))
            rows.append((name, step.artifact.manifest.kind, state, took, step.artifact.digest[:12]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *summarize_artifacts({name: step.artifact for name, step in self.steps.items()})])

    __repr__ = __str__

    @property
    def unmade(self) -> list[str]:
        """Steps that were not asked for, and are not made as the recipe stands: no report tells of them."""
        return [name for name in self.plan.unmade if name not in self.steps]

    def as_json(self) -> dict[str, Any]:
        """The documented shape of `run --json`."""
        steps = {name: step.as_json() for name, step in self.steps.items()}
        return {"recipe": self.recipe.name, "exit": self.exit_code, "steps": steps}


def run_recipe(
    recipe: Recipe,
    events: RunEventEmitter | None = None,
    only: Sequence[str] = (),
    *,
    placement: Placement | None = None,
    on_step: Callable[[PlannedStep, StepResult], None] = lambda planned, result: None,
) -> RunResult:
    """Make every step that is not cached, or `only` some and what they read; steps being made by another process are
    waited for, not made twice. `placement` says where, else the recipe, else it is this process. `on_step` is called
    with each step as soon as its artifact is there."""
    set_thread_wait_policy()
    placement = placement or Placement()
    placement.check(recipe)
    recipe = placement.place_driven_steps(recipe)
    events = events or RunEventEmitter()
    needed = recipe.needed(only)
    gather_inputs(recipe, needed, events)
    recipe_plan = build_recipe_plan(recipe, costs_of=needed)
    requested = [planned for planned in recipe_plan if planned.name in needed]
    events.emit(RunEvent(kind="run", text=recipe.name, total=len(requested)))
    done = _make_within_budget(recipe_plan, requested, events, placement, on_step)
    remember_outcomes(recipe_plan, [planned for planned in requested if not done[planned.name].cached])
    exit_code = _exit_code(done)
    events.emit(RunEvent(kind="end", text=recipe.name, measures={"exit": exit_code}))
    return RunResult(
        recipe=recipe,
        plan=recipe_plan,
        steps={planned.name: done[planned.name] for planned in requested},
        exit_code=exit_code,
    )


def _make_within_budget(
    what: RecipePlan,
    requested: Sequence[PlannedStep],
    events: RunEventEmitter,
    placement: Placement,
    on_step: Callable[[PlannedStep, StepResult], None],
) -> dict[str, StepResult]:
    """The same as `make_steps`, until the recipe's budget is spent where it has one: `BudgetSpent`."""
    if what.recipe.budget is None:
        return make_steps(what, requested, events, placement, on_step)
    for text in warn_of_budget(what, placement):
        events.emit(RunEvent(kind="warning", text=text))
    meter = BudgetMeter(what, placement)
    try:
        return make_steps(what, requested, RunEventEmitter(events.emit, meter), placement, on_step, meter.check)
    except BudgetSpent:
        raise
    except Interrupted as error:
        if meter.is_spent:
            raise meter.error() from error
        raise
    finally:
        meter.close()


def make_steps(
    what: RecipePlan,
    requested: Sequence[PlannedStep],
    events: RunEventEmitter,
    placement: Placement,
    on_step: Callable[[PlannedStep, StepResult], None] = lambda planned, result: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, StepResult]:
    """Make steps of a plan with which comes all that they read, as far as they are not cached; their results by
    name. Steps that jobs make elsewhere go at once; in this process one is made after the other. `check` is called
    while jobs are waited for, and may raise."""
    _download(
        [planned_step for planned_step in requested if not placement.executor_of(planned_step).is_elsewhere],
        what.recipe,
        events,
    )
    for planned in requested:
        if not planned.cached:
            placement.executor_of(planned).check(what, planned)
    done: dict[str, StepResult] = {}
    validations = _Validations(what, requested)

    def finish(planned: PlannedStep, result: StepResult) -> None:
        done[planned.name] = result
        on_step(planned, result)

    with _JobThreads(what, events, placement) as jobs:
        while len(done) < len(requested):
            before = len(done)
            ready = [
                planned
                for planned in requested
                if planned.name not in done
                and _is_ready(planned, what, done)
                and validations.allow_training(planned, done)
            ]
            here = [planned for planned in ready if not placement.executor_of(planned).is_elsewhere]
            jobs.start([planned for planned in ready if planned not in here])
            for planned in here:
                result = _take(planned, what, events, placement.executor_of(planned), wait=False)
                if result is not None:
                    finish(planned, result)
            for planned, result in jobs.collect(check, wait=not here):
                finish(planned, result)
            if len(done) == before and not here and not jobs:
                raise validations.build_refusal(done)
            if len(done) == before and here:
                events.emit(RunEvent(kind="wait", step=here[0].name, text="another process is making it; waiting"))
                finish(here[0], _wait(here[0], what, events, placement.executor_of(here[0])))
    return done


class _JobThreads:
    """The steps that jobs make elsewhere, each followed by a thread; when the run is stopped, they are cancelled."""

    def __init__(self, what: RecipePlan, events: RunEventEmitter, placement: Placement) -> None:
        self._what, self._events, self._placement = what, events, placement
        self._threads: ThreadPoolExecutor | None = None
        self._followed: dict[str, tuple[PlannedStep, Future[StepResult]]] = {}

    def start(self, steps: Sequence[PlannedStep]) -> None:
        """Follow steps that are not followed yet."""
        for planned in steps:
            if planned.name not in self._followed:
                self._threads = self._threads or ThreadPoolExecutor(_MOST_JOBS)
                self._followed[planned.name] = planned, self._threads.submit(self._make, planned)

    def _make(self, planned: PlannedStep) -> StepResult:
        if self._what.store_of(planned).has(planned.digest):
            return _found(planned, self._what, self._events)
        return _make(planned, self._what, self._events, self._placement.executor_of(planned))

    def collect(self, check: Callable[[], None], *, wait: bool) -> Iterator[tuple[PlannedStep, StepResult]]:
        """Those that are over, after one is, if so wished; raises what ended one too early."""
        while wait and self._followed and not any(future.done() for _, future in self._followed.values()):
            wait_for_futures([future for _, future in self._followed.values()], timeout=0.2)
            raise_pending_stop(in_any_thread=True)
            check()
        for name, (planned, future) in list(self._followed.items()):
            if future.done():
                del self._followed[name]
                yield planned, future.result()

    def __bool__(self) -> bool:
        """Whether any step is followed."""
        return bool(self._followed)

    def __enter__(self) -> _JobThreads:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for planned, future in self._followed.values():
            if not future.cancel() and not future.done():
                self._placement.executor_of(planned).cancel(self._what, planned)
        if self._threads is not None:
            self._threads.shutdown(wait=True)


class _Validations:
    """Which steps of a run examine a data set that others train on. Training waits for them, and is refused where one
    found what forbids it; steps whose model is there already are not held up."""

    def __init__(self, what: RecipePlan, requested: Sequence[PlannedStep]) -> None:
        self._what = what
        self._of: dict[str, list[PlannedStep]] = {}
        checks = [planned for planned in requested if planned.step.makes == "findings"]
        for planned in requested:
            if planned.step.makes == "model" and not planned.cached and (data := self._datasets(planned)):
                self._of[planned.name] = [
                    check
                    for check in checks
                    if data & self._datasets(check) and planned.name not in what.recipe.needed([check.name])
                ]

    def _datasets(self, planned: PlannedStep) -> set[str]:
        marks = planned.step.inputs()
        read = self._what.recipe.references(planned.step)
        return {name for field, name in read.items() if marks[field.partition(".")[0]].makes == "dataset"}

    def allow_training(self, planned: PlannedStep, done: Mapping[str, StepResult]) -> bool:
        """Whether a step may be made now: every validation of its rows is there and finds no obstacle."""
        return all(
            check.name in done and not check.step.find_training_obstacle(done[check.name].artifact)
            for check in self._of.get(planned.name, ())
        )

    def build_refusal(self, done: Mapping[str, StepResult]) -> LuthierError:
        """Why the steps that are left are not made."""
        for planned in (check for checks in self._of.values() for check in checks if check.name in done):
            if why := planned.step.find_training_obstacle(done[planned.name].artifact):
                file = shlex.quote(self._what.recipe.file)
                return DataError(
                    f"nothing was trained, because the data are not fit for it: {why}",
                    where=SourceLocation(file=self._what.recipe.file, field=f"steps.{planned.name}"),
                    hint=f"`luthier report {file}` lists the findings and remedies; to train anyway: "
                    f"`luthier run {file} 'steps.{planned.name}.stop_on=[]'`",
                )
        raise AssertionError("steps are left that wait for none")


_MOST_JOBS = 64
"""Jobs that are followed at once."""


def gather_inputs(recipe: Recipe, names: Collection[str], events: RunEventEmitter) -> None:
    """Bring here what steps read from afar: only then can their artifacts be named."""
    steps = recipe.all_steps()
    for name in names:
        try:
            for part in iter_components(steps[name]):
                part.gather(recipe.recipe_dir, events.of(name).note)
        except LuthierError as error:
            raise recipe.placed(error, name) from error


def _download(requested: Sequence[PlannedStep], recipe: Recipe, events: RunEventEmitter) -> None:
    """Fetch what the steps that must be made work with, so that none ends for want of it when others are made."""
    for planned in requested:
        if not planned.cached:
            try:
                for part in iter_components(planned.step):
                    part.download(events.of(planned.name).note)
            except LuthierError as error:
                raise recipe.placed(error, planned.name) from error


def _is_ready(planned: PlannedStep, what: RecipePlan, done: Mapping[str, StepResult]) -> bool:
    return all(other in done for other in what.recipe.references(planned.step).values())


def _wait(planned: PlannedStep, what: RecipePlan, events: RunEventEmitter, executor: Executor) -> StepResult:
    result = _take(planned, what, events, executor, wait=True)
    assert result is not None, "a lock that was waited for is held"
    return result


def _take(
    planned: PlannedStep, what: RecipePlan, events: RunEventEmitter, executor: Executor, *, wait: bool
) -> StepResult | None:
    """The step's artifact: found, or made under its lock; None when another process holds the lock."""
    store = what.store_of(planned)
    if store.has(planned.digest):
        return _found(planned, what, events)
    with store.lock(planned.digest, wait=wait) as held:
        if not held:
            return None
        if store.has(planned.digest):
            return _found(planned, what, events)
        return _make(planned, what, events, executor)


def _found(planned: PlannedStep, what: RecipePlan, events: RunEventEmitter) -> StepResult:
    events.emit(RunEvent(kind="cached", step=planned.name, text=planned.step.kind))
    return StepResult(artifact=what.store.open(planned.digest), cached=True, seconds=0.0)


def _make(planned: PlannedStep, what: RecipePlan, events: RunEventEmitter, executor: Executor) -> StepResult:
    events.emit(RunEvent(kind="start", step=planned.name, text=planned.step.kind))
    started = time.perf_counter()
    with _refusals(planned, what, events):
        artifact = executor.make_artifact(what, planned, events)
    seconds = time.perf_counter() - started
    events.emit(RunEvent(kind="done", step=planned.name, text=planned.step.kind, measures={"seconds": seconds}))
    return StepResult(artifact=artifact, cached=False, seconds=seconds)


@contextmanager
def _refusals(planned: PlannedStep, what: RecipePlan, events: RunEventEmitter) -> Iterator[None]:
    """Say which step failed, with its place in the recipe."""
    try:
        yield
    except KeyboardInterrupt as error:
        events.emit(RunEvent(kind="failed", step=planned.name, text="interrupted"))
        raise Interrupted(
            f"stopped while making {planned.name!r}; finished steps and checkpoints are kept",
            hint="run it again to go on",
        ) from error
    except LuthierError as error:
        events.emit(RunEvent(kind="failed", step=planned.name))  # why is said by the error itself, once
        raise what.recipe.placed(error, planned.name) from error


def _exit_code(done: Mapping[str, StepResult]) -> int:
    """1 when any gate failed, else 3 when any is inconclusive, else 0."""
    verdicts = [
        EXIT_OF_VERDICT[result.artifact.read_json("gate.json")["verdict"]]
        for result in done.values()
        if result.artifact.manifest.makes == "verdict"
    ]
    return 1 if 1 in verdicts else max(verdicts, default=0)


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A finished run and the report that was written of it."""

    result: RunResult
    report: Path | None

    def lines(self) -> list[str]:
        """What to tell a person at the end."""
        from luthier.recipe.report import summarize_artifacts

        steps = self.result.steps
        made = [name for name, step in steps.items() if not step.cached]
        lines = summarize_artifacts({name: step.artifact for name, step in steps.items()})
        lines.append(f"made {', '.join(made)}" if made else "nothing to make: every step was cached")
        return [*lines, f"report: {self.report}{self._without()}"] if self.report else lines

    def _without(self) -> str:
        unmade = self.result.unmade
        return f", without {', '.join(unmade)}: not made as the recipe stands" if unmade else ""


def run_and_record(
    recipe: Recipe, listener: Listener, only: Sequence[str] = (), placement: Placement | None = None
) -> RecordedRun:
    """Run a recipe, or only some of its steps: events are shown and logged, the run stands in the ledger, and what is
    made is reported at the end. What ended a run before that stands in the ledger and in its log, too."""
    from luthier.core.render import LogFileRenderer
    from luthier.recipe.report import write_run_report

    store = recipe.workspace.open_store()
    with recipe.workspace.open_ledger() as ledger:
        record = _Record.begin(ledger, recipe)
        with LogFileRenderer(get_run_log_path(store, record.run)) as log, record.failures(log):
            for text in describe_open_launches(ledger, recipe, store):
                RunEventEmitter(listener, log).emit(RunEvent(kind="note", text=text))
            result = run_recipe(recipe, RunEventEmitter(listener, log), only, placement=placement, on_step=record.add)
        record.end("done", result.exit_code)
    return RecordedRun(result=result, report=write_run_report(result))


def get_run_log_path(store: Store, run: str) -> Path:
    """Return the path of a run's log: its events as JSON lines."""
    return store.root / "runs" / f"{run}.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A run in the ledger. Its steps are written when it ends, so that a ledger that is away for a while does not stop
    it."""

    ledger: Ledger
    run: str
    steps: list[RunStep] = field(default_factory=list)

    @classmethod
    def begin(cls, ledger: Ledger, recipe: Recipe) -> Self:
        """Write down that a run of a recipe begins."""
        digest = digest_of(recipe.model_dump(mode="json"))
        run = ledger.start_run(
            recipe.name,
            digest,
            str(recipe.recipe_dir.absolute()),
            file=Path(recipe.file).name,
            text=recipe.written,
            overrides=recipe.overrides,
        )
        return cls(ledger=ledger, run=run)

    def add(self, planned: PlannedStep, result: StepResult) -> None:
        """A step whose artifact is there."""
        kind, digest = planned.step.kind, result.artifact.digest
        step = RunStep(name=planned.name, kind=kind, artifact=digest, cached=result.cached, seconds=result.seconds)
        self.steps.append(step)

    def end(self, state: State, exit_code: int, error: dict[str, Any] | None = None) -> None:
        """Write down the steps that were made, and how the run ended."""
        for step in self.steps:
            self.ledger.record_step(self.run, step)
        self.ledger.finish_run(self.run, state, exit_code, error)

    @contextmanager
    def failures(self, log: Listener) -> Iterator[None]:
        """Write into the log and the ledger what ends a run too early; a fault of Luthier's own with its traceback."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as error:
            _log_end(log, str(error) or "interrupted")
            self.end("interrupted", Interrupted.exit_code)
            raise
        except LuthierError as error:
            _log_end(log, str(error))
            self.end("failed", error.exit_code, error.as_json())
            raise
        except Exception as error:  # raised again: the entry point says that it is a fault
            what = f"a fault of Luthier's own: {type(error).__name__}: {error}"
            _log_end(log, what, "".join(traceback.format_exception(error)))
            self.end("failed", FAULT_EXIT_CODE, LuthierError(what).as_json())
            raise


def _log_end(log: Listener, why: str, details: str = "") -> None:
    with suppress(SystemResourceError):  # where the log cannot be written, that is often what ended the run
        log(RunEvent(kind="failed", text=why, details=details))
