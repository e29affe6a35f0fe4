"""One search: trials as children of the recipe, rung by rung, then the finalists on the test rows, then the model.

A search keeps no state besides its children: a killed one requests the same trials again, and finds the finished ones.
The cost of a trial is counted (`work`), never timed, and a failed trial ranks last with its reason.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from luthier.artifacts.dataset import DatasetSummary, has_split
from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.artifacts.search import (
    FinalistRecord,
    SearchRecord,
    SelectionLuck,
    TrialRow,
    write_trials,
)
from luthier.artifacts.training import TrainingRecord
from luthier.auto.search.engine import SearchEngine, TrialRequest, TrialResult
from luthier.auto.search.importance import measure_importance
from luthier.auto.search.initial_trials import suggest_first_trials
from luthier.auto.search.leaks import find_leaked_rows
from luthier.auto.search.luck import measure_luck
from luthier.auto.search.pareto import find_front, find_unmet
from luthier.auto.search.paths import iter_differences
from luthier.auto.search.rungs import RUNG_SETS
from luthier.auto.search.scores import PLAIN, ScoreTable
from luthier.auto.search.space import write_override
from luthier.auto.search.verdict import decide_winner, parse_preference, rank_trials
from luthier.auto.search.work import WorkCounter
from luthier.auto.steps.search import TEST, YARDSTICK, build_missing_split_error, require_tune
from luthier.core.artifact import MANIFEST, TIMING, Artifact
from luthier.core.errors import DataError, LuthierError, ModelError, OutOfMemory, SystemResourceError
from luthier.core.events import format_counted_noun
from luthier.core.hashing import canonical_json, digest_of
from luthier.core.step import NotHashed, Step, StepContext
from luthier.eval.predictions import read_answers
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.models.describe import describe_model_folder
from luthier.models.load import find_base_folder, get_training_data, is_endpoint, is_plain_classifier
from luthier.tune.training.schedule import DECAY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.auto.steps.search import ModelSearch
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune

Outcome = TypeVar("Outcome")
BASELINE = "tfidf"
"""The plain baseline by which finalists are compared, where rows have classes."""


class _Children(NamedTuple):
    """The steps of one training and its evaluation, by name."""

    steps: Mapping[str, Step]
    report: str
    """The evaluation."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The measures of one model."""

    model: Artifact
    report: Artifact
    score: MetricScore
    answers: EvalPredictions
    baseline: EvalPredictions | None = None


@dataclass(kw_only=True)
class _Progress:
    """The displayed progress of a search."""

    spent: float = 0.0
    best: float = -math.inf
    trial: int = 0
    measured: dict[tuple[int, int], _Measured] = field(default_factory=dict)
    rows: list[TrialRow] = field(default_factory=list)


class SearchRun:
    """One search, which writes the chosen model."""

    def __init__(self, step: ModelSearch, work: StepContext) -> None:
        self._step, self._work = step, work
        self._steps = work.children.steps
        self._of = require_tune(step.of, self._steps)
        self._data = _require_data(work.inputs["of"])
        self._counter = WorkCounter(base=work.inputs.get("model"), recipe_dir=work.recipe_dir)
        self._space = step.build_space(self._steps, _describe_base(work.inputs.get("model")))
        self._metric: Metric = step.metric
        self._sign = 1.0 if step.metric.better == "higher" else -1.0
        self._progress = _Progress()
        self._shares: Sequence[float] = RUNG_SETS[0]
        self._data_sets: dict[str, Artifact | LuthierError] = {}
        self._left_out: dict[str, tuple[str, ...]] = {}
        """By changed data steps, the training rows that are held out, or stem from such."""
        self._operations: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        """What trainings and evaluations took when they were made, by digest."""

    def run(self) -> dict[str, Any]:
        """Search, compare the finalists, and write the files of the model that is taken."""
        engine = SearchEngine(
            self._space,
            budget=float(self._step.budget),
            seed=self._work.seed,
            work_of=self.count_work,
            first=self._list_first_trials(),
            finalists=self._step.finalists,
        )
        self._shares = engine.shares
        self._operations.clear()
        self._warn_unaffordable(engine.shares[0])
        stopped = ""
        while requests := engine.ask():
            engine.tell(self._run_rung(requests))
            if self._step.max_trials is not None and len(engine.trials) >= self._step.max_trials:
                stopped = f"it has {format_counted_noun(len(engine.trials), 'trial')} (max_trials)"
                break
        finalists = self._train_finalists(engine)
        winner = self._write(engine, finalists, stopped or engine.end)
        self._work.events.note(f"trial {winner} of {len(engine.trials)} is taken")
        return {
            "trials": len(engine.trials),
            "spent": self._progress.spent,
            "work": self._progress.spent + self._count_finalist_work(engine, finalists),
            "trial_s": sum(self._seconds.values()),
            "of_s": _read_seconds(self._work.inputs["of"]),
        }

    def _list_first_trials(self) -> Sequence[Mapping[str, Any]]:
        """Settings that are tried after those of `of`."""
        if self._step.first != "advice":
            return self._step.first
        about = DatasetSummary.read(self._data)
        rows = about.rows.get("train", 0)
        rows = min(rows, self._of.max_train_samples or rows)
        return suggest_first_trials(self._space, max(1, rows), len(about.labels))

    def _warn_unaffordable(self, share: float) -> None:
        """Say which techniques the budget does not pay for, even once."""
        budget = float(self._step.budget)
        for branch in self._space.branches:
            work = self.count_work({"technique": branch}, share)
            if work > budget:
                what = f"the budget of {budget:g} pays for no trial of {branch}, the shortest of which takes {work:.3g}"
                self._work.events.warning(f"{what}: search from a step with that technique instead")
        for branch, why in self._space.refused.items():
            self._work.events.warning(f"{branch} is not tried: {why}")

    def _run_rung(self, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        """Train and evaluate all trials of a rung, several at once where there are workers."""
        tasks = [partial(self._run_trial, request) for request in requests]
        results = []
        with _run_in_order(tasks, self._step.workers) as outcomes:
            for request, (measured, failed) in zip(requests, outcomes, strict=True):
                results.append(self._take(request, measured, failed))
        return results

    def _run_trial(self, request: TrialRequest) -> tuple[_Measured | None, str]:
        """Run one trial at one rung; on failure, return why."""
        try:
            children = self._build_children(request, YARDSTICK, f"{request.trial}")
            return self._measure(children), ""
        except LuthierError as error:
            _raise_if_common(error)
            return None, error.message

    def _take(self, request: TrialRequest, measured: _Measured | None, failed: str) -> TrialResult:
        """Record the result of a trial, and report the state of the search."""
        before = self.count_work(request.settings, self._shares[request.rung - 1]) if request.rung else 0.0
        work = self.count_work(request.settings, request.share) - before
        progress = self._progress
        progress.spent += work
        value = self._sign * float(measured.score.value) if measured is not None else -math.inf
        if measured is not None:
            progress.measured[request.trial, request.rung] = measured
            if not math.isfinite(value):
                failed = f"its {self._metric.kind} is {measured.score.value}"
        if not failed and value > progress.best:
            progress.best, progress.trial = value, request.trial
        if failed:
            self._work.events.warning(f"trial {request.trial} failed: {failed}")
        progress.rows.append(self._make_row(request, measured if not failed else None, work, failed))
        shown = {"best": self._sign * progress.best, "best_trial": progress.trial} if progress.best > -math.inf else {}
        own = {self._metric.kind: float(measured.score.value)} if measured is not None else {}
        numbers: dict[str, float | str] = {"trial": request.trial, "rung": request.rung, **own, **shown}
        self._work.events.progress(round(progress.spent, 2), float(self._step.budget), "trainings", **numbers)
        rows = None if measured is None or failed else self._score_rows(measured.answers)
        return TrialResult(trial=request.trial, rung=request.rung, value=value, rows=rows, work=work, failed=failed)

    def _make_row(self, request: TrialRequest, measured: _Measured | None, work: float, failed: str) -> TrialRow:
        score = {} if measured is None else {name: getattr(measured.score, name) for name in ("value", "low", "high")}
        return TrialRow(
            trial=request.trial,
            rung=request.rung,
            share=request.share,
            settings=dict(request.settings),
            work=work,
            digest=measured.model.digest if measured is not None else "",
            failed=failed,
            overrides=tuple(self._list_overrides(request.settings, request.share)),
            **score,
        )

    def _build_children(
        self, request: TrialRequest, split: Literal["validation", "test"], prefix: str, seed: int | None = None
    ) -> _Children:
        """Return the steps of a training: changed ones under new names, so that the evaluation data does not change."""
        tune, steps = self._apply(request.settings)
        rows = self._count_rows(tune, steps)
        whole = tune if seed is None else tune.model_copy(update={"seed": seed})
        model, report = f"{prefix}-tune", f"{prefix}-{split}"
        steps[model] = self._shorten(whole, request.share, rows)
        evaluation = self._step.evaluation(self._of.data, model, split)
        steps[report] = evaluation.model_copy(update={"on": self._of.on})
        return _Children(steps, report)

    def _apply(self, settings: Mapping[str, Any]) -> tuple[Tune, dict[str, Step]]:
        """Return a trial's training and changed data steps, under new names."""
        changed = {**self._change(settings)}
        tune = require_tune("of", {"of": changed.pop("of")})
        return self._rename(tune, changed)

    def _change(self, settings: Mapping[str, Any]) -> Mapping[str, Step]:
        """The changed steps of a trial, whose data leave out rows that are held out by those of `of`."""
        made = self._space.apply(settings)
        key = digest_of([[name, step.settings()] for name, step in sorted(made.items()) if name != "of"])
        if len(made) == 1:
            return made
        if key not in self._left_out:
            self._left_out[key] = tuple(find_leaked_rows(self._make_changed_data(made), self._data))
        return self._space.exclude_rows(made, self._left_out[key]) if self._left_out[key] else made

    def _make_changed_data(self, made: Mapping[str, Step]) -> Artifact:
        changed = {**made}
        tune, steps = self._rename(require_tune("of", {"of": changed.pop("of")}), changed)
        return self._make_data(tune.data, steps)

    @staticmethod
    def _rename(tune: Tune, changed: Mapping[str, Step]) -> tuple[Tune, dict[str, Step]]:
        mark = digest_of([[name, step.settings()] for name, step in sorted(changed.items())])[:8]
        names = {name: f"{name[:50]}-{mark}" for name in changed}
        return _rename_inputs(tune, names), {
            names[name]: _rename_inputs(entry, names) for name, entry in changed.items()
        }

    def _shorten(self, tune: Tune, share: float, rows: int) -> Tune:
        return tune.at_share(share, rows)

    def _count_rows(self, tune: Tune, steps: Mapping[str, Step]) -> int:
        """Training rows of a trial."""
        rows = DatasetSummary.read(self._make_data(tune.data, steps)).rows.get("train", 0)
        if not rows:
            raise DataError("its data have no training rows")
        return rows

    def _make_data(self, name: str, steps: Mapping[str, Step]) -> Artifact:
        """The data set of a trial: that of `of`, or one that changed steps make, which is made once."""
        if name == self._of.data and name not in steps:
            return self._data
        named = {key: step for key, step in steps.items() if step.makes == "dataset"}
        key = digest_of([[step.settings() for step in named.values()], name in named])
        if key not in self._data_sets:
            try:
                self._data_sets[key] = self._work.children.make(named, name)
            except LuthierError as error:
                _raise_if_common(error)
                self._data_sets[key] = error
        if isinstance(found := self._data_sets[key], LuthierError):
            raise found
        return found

    def _measure(self, children: _Children) -> _Measured:
        """Make and read one evaluation."""
        report = self._work.children.make(children.steps, children.report, threads=self._step.threads)
        return self._read_measures(report)

    def _read_measures(self, report: Artifact) -> _Measured:
        model, summary = report.parent("model"), EvaluationSummary.read(report)
        self._seconds |= {artifact.digest: _read_seconds(artifact) for artifact in (model, report)}
        score = EvaluationMetrics.read(report).models[summary.subject][self._metric.kind]
        named = {model.name for model in summary.models}
        baseline = read_answers(report, BASELINE)[1] if BASELINE in named else None
        answers = read_answers(report, summary.subject)[1]
        return _Measured(model=model, report=report, score=score, answers=answers, baseline=baseline)

    def _score_rows(self, answers: EvalPredictions) -> NDArray[np.float64] | None:
        """The score of each row, larger is better: the metric's own where it is a mean, else whether it is right."""
        import numpy as np

        result = measure_all([self._metric], answers, seed=self._work.seed)[0]
        if len(result.rows) == len(answers) and math.isclose(
            float(np.nanmean(result.rows)), result.value, abs_tol=1e-9
        ):
            return self._sign * result.rows
        if DatasetSummary.read(self._data).task != "label":
            return None
        right = [text in accepted for text, accepted in zip(answers.predictions, answers.references, strict=True)]
        return np.array(right, dtype=np.float64)

    def count_work(self, settings: Mapping[str, Any], share: float) -> float:
        """Work of a trial up to a share with its evaluations on the way, in trainings of `of` with one evaluation."""
        key = canonical_json([dict(settings), share])
        if key not in self._operations:
            self._operations[key] = self._count_operations(settings, share)
        return self._operations[key] / self._unit

    @cached_property
    def _unit(self) -> float:
        whole = self._counter.count_training(self._of, self._data)
        return max(1.0, whole + self._counter.count_evaluation(self._of, self._data, YARDSTICK))

    def _count_operations(self, settings: Mapping[str, Any], share: float) -> float:
        try:
            tune, changed = self._apply(settings)
            data = self._make_data(tune.data, changed)
            rows = DatasetSummary.read(data).rows.get("train", 0)
        except LuthierError as error:
            _raise_if_common(error)
            return 0.0  # what is refused, or has no data, costs nothing
        evaluation = self._counter.count_evaluation(tune, self._data, YARDSTICK)
        total = kept = 0.0
        for at in [*(entry for entry in self._shares if entry < share), share]:
            short = self._shorten(tune, at, rows)
            training = self._counter.count_training(short, data)
            goes_on = not short.find_trunk_obstacle()
            total += evaluation + training - (kept if goes_on else 0.0)
            trunk = 1 - (short.decay or DECAY) if short.shape == "wsd" else 1.0
            kept = trunk * training if goes_on else 0.0
        return total

    def _list_overrides(self, settings: Mapping[str, Any], share: float) -> list[str]:
        """Return the overrides of `luthier run` that make the same training."""
        made = self._change(settings)
        short = self._shorten(require_tune("of", made), share, self._count_rows(*self._apply(settings)))
        pairs: list[tuple[str, Step, Step]] = [(self._step.of, self._of, short)]
        pairs += [(name, self._steps[name], step) for name, step in sorted(made.items()) if name != "of"]
        not_hashed = {name for name, info in type(short).model_fields.items() if NotHashed() in info.metadata}
        return [
            f"steps.{name}.{path}={write_override(value)}"
            for name, before, after in pairs
            for path, value in iter_differences(before, after)
            if path not in not_hashed
        ]

    def _train_finalists(self, engine: SearchEngine) -> dict[int, list[_Measured]]:
        """Each finalist and `of`, trained whole by each seed and measured on the test rows; one that fails is out."""
        if not has_split(self._data, TEST):
            raise build_missing_split_error(TEST)
        trials = sorted({0, *engine.finalists})
        jobs = [(trial, seed) for trial in trials for seed in self._list_seeds(engine.trials[trial])]
        tasks = [partial(self._try_finalist, engine.trials[trial], trial, seed) for trial, seed in jobs]
        found: dict[int, list[_Measured]] = {trial: [] for trial in trials}
        failed: dict[int, str] = {}
        with _run_in_order(tasks, self._step.workers) as outcomes:
            for number, ((trial, _), (measured, why)) in enumerate(zip(jobs, outcomes, strict=True), start=1):
                if measured is None:
                    failed.setdefault(trial, why)
                else:
                    found[trial].append(measured)
                self._work.events.progress(number, len(jobs), "finalist trainings", trial=trial)
        for trial, why in failed.items():
            if trial == 0:
                raise ModelError(f"{self._step.of!r} cannot be trained by another seed: {why}")
            self._work.events.warning(f"finalist {trial} is left out: {why}")
            del found[trial]
        return found

    def _try_finalist(self, settings: Mapping[str, Any], trial: int, seed: int | None) -> tuple[_Measured | None, str]:
        request = TrialRequest(trial=trial, settings=settings, rung=0, share=1.0)
        name = f"{trial}" if seed is None else f"{trial}-seed-{seed}"
        try:
            return self._measure(self._build_children(request, TEST, name, seed)), ""
        except LuthierError as error:
            _raise_if_common(error)
            return None, error.message

    def _list_seeds(self, settings: Mapping[str, Any]) -> list[int | None]:
        """The recipe's own seed, then others; one where nothing is drawn."""
        tune, _ = self._apply(settings)
        if not depends_on_seed(tune):
            return [None]
        first = self._work.seed if tune.seed is None else tune.seed
        return [None, *((first + number) % 2**32 for number in range(1, self._step.seeds))]

    def _write(self, engine: SearchEngine, finalists: Mapping[int, Sequence[_Measured]], stopped: str) -> int:
        step, metric = self._step, self._metric
        answers: dict[int | str, list[EvalPredictions]] = {
            trial: [seed.answers for seed in seeds] for trial, seeds in finalists.items()
        }
        baseline = finalists[0][0].baseline
        if baseline is not None:
            answers[PLAIN] = [baseline]
        fixed = [trial for trial in finalists if not depends_on_seed(self._apply(engine.trials[trial])[0])]
        table = ScoreTable.of_answers(metric, answers, fixed=fixed)
        measured = {trial: self._measure_aims(seeds) for trial, seeds in finalists.items()}
        plain = {metric.kind: table.mean(PLAIN)} if baseline is not None else {}
        references = {"of": measured[0], "plain": plain}
        refused = {trial: find_unmet(step.constraints, measured[trial], references) for trial in finalists}
        verdict = decide_winner(
            table,
            of=step.of,
            whole=metric.whole(),
            prefer=parse_preference(step.prefer) if step.prefer else None,
            measured=measured,
            refused=refused,
            seed=self._work.seed,
        )
        rows = sorted(self._progress.rows, key=lambda row: (row.rung, row.trial))
        space = {
            branch: {path: tried.to_json() for path, tried in paths.items()}
            for branch, paths in self._space.branches.items()
        }
        better = metric.better
        counts = DatasetSummary.read(self._data).rows
        records = [
            self._make_finalist(trial, engine.trials[trial], finalists[trial], table, measured[trial], refused[trial])
            for trial in rank_trials(table)
        ]
        record = SearchRecord(
            of=step.of,
            metric=metric.kind,
            better=better,
            space=space,
            budget=float(step.budget),
            spent=self._progress.spent,
            spent_finalists=self._count_finalist_work(engine, finalists),
            trials=len(engine.trials),
            failed=len({row.trial for row in rows if row.failed}),
            stopped=stopped,
            validation_rows=counts.get(YARDSTICK, 0),
            test_rows=counts.get(TEST, 0),
            seeds=step.seeds,
            aims=step.aim_records,
            constraints=step.constraints,
            prefer=step.prefer or "",
            finalists=tuple(records),
            plain=plain.get(metric.kind),
            verdict=verdict,
            importance=measure_importance(rows, space, better),
            front=find_front(measured, step.aim_records),
            luck=self._measure_luck(len(engine.trials)),
        )
        shutil.copytree(
            finalists[verdict.winner][0].model.folder, self._work.folder, dirs_exist_ok=True, ignore=_ignore_records
        )
        record.write(self._work.folder)
        write_trials(self._work.folder, rows)
        self._work.events.note(verdict.sentence)
        if record.luck is not None and not record.luck.believed:
            self._work.events.note(record.luck.sentence)
        return verdict.winner

    def _make_finalist(
        self,
        trial: int,
        settings: Mapping[str, Any],
        seeds: Sequence[_Measured],
        table: ScoreTable,
        measured: Mapping[str, float],
        refused: str,
    ) -> FinalistRecord:
        found = table.measure(trial, self._work.seed)
        used = [self._work.seed if seed is None else seed for seed in self._list_seeds(settings)]
        return FinalistRecord(
            trial=trial,
            settings=dict(settings),
            seeds=tuple(used[: len(seeds)]),
            values=tuple(table.values(trial)),
            value=table.mean(trial),
            low=found.low,
            high=found.high,
            parameters=int(measured["parameters"]) if "parameters" in measured else None,
            aims={aim.name: measured[aim.name] for aim in self._step.aim_records if aim.name in measured},
            digests=tuple(entry.model.digest for entry in seeds),
            overrides=tuple(self._list_overrides(settings, 1.0)),
            refused=refused,
        )

    def _measure_aims(self, seeds: Sequence[_Measured]) -> dict[str, float]:
        """Return the measures of a finalist by name: the mean over its seeds."""
        each = [_measure_model(seed) for seed in seeds]
        shared = set(each[0]).intersection(*each)
        return {name: sum(entry[name] for entry in each) / len(each) for name in sorted(shared)}

    def _count_finalist_work(self, engine: SearchEngine, finalists: Mapping[int, Sequence[_Measured]]) -> float:
        """Work of the finalists' trainings that no trial had done."""
        whole = {row.trial for row in self._progress.rows if row.share == 1 and not row.failed}
        total = 0.0
        for trial, seeds in finalists.items():
            again = len(seeds) - (1 if trial == 0 or trial in whole else 0)
            total += again * self.count_work(engine.trials[trial], 1.0)
        return total

    def _measure_luck(self, trials: int) -> SelectionLuck | None:
        """Return the share of luck in the best validation score, at the last rung with trial 0 and another one."""
        known = self._progress.measured
        failed = {row.trial for row in self._progress.rows if row.failed}
        for rung in sorted({rung for _, rung in known}, reverse=True):
            here = {trial: measured for (trial, at), measured in known.items() if at == rung and trial not in failed}
            if 0 in here and len(here) > 1:
                answers: dict[int | str, list[EvalPredictions]] = {key: [here[key].answers] for key in sorted(here)}
                table = ScoreTable.of_answers(self._metric, answers)
                return measure_luck(table, trials=trials, seed=self._work.seed)
        return None


def _raise_if_common(error: LuthierError) -> None:
    """Raise an error that every trial would have, such as a full disk: none of them is the worse for it."""
    if isinstance(error, SystemResourceError) and not isinstance(error, OutOfMemory):
        raise error


def depends_on_seed(tune: Tune) -> bool:
    """Return whether the model depends on the seed."""
    from luthier.tune.technique import StandaloneTechnique

    technique = tune.technique
    return not isinstance(technique, StandaloneTechnique) or "seed" in technique.used


def _require_data(of: Artifact) -> Artifact:
    data = get_training_data(of)
    if data is None:
        raise ModelError("it was trained on no data set")
    for split in (YARDSTICK, TEST):
        if not has_split(data, split):
            raise build_missing_split_error(split)
    return data


def _rename_inputs(step: Any, names: Mapping[str, str]) -> Any:
    """A step with other names for the steps that it reads."""
    changes: dict[str, Any] = {}
    for name in step.reads():
        value = getattr(step, name)
        new = tuple(names.get(entry, entry) for entry in value) if isinstance(value, tuple) else names.get(value, value)
        if new != value:
            changes[name] = new
    return step.model_copy(update=changes) if changes else step


def _describe_base(model: Artifact | None) -> ModelDescription | None:
    """The base model, where it is a network and is here."""
    if model is None or is_endpoint(model) or is_plain_classifier(model):
        return None
    return describe_model_folder(find_base_folder(model))


def _measure_model(measured: _Measured) -> dict[str, float]:
    """Metrics, probes and tasks of one model by name, and its size."""
    summary, metrics = EvaluationSummary.read(measured.report), EvaluationMetrics.read(measured.report)
    found = {name: float(model.value) for name, model in metrics.models[summary.subject].items()}
    found |= {name: float(measure.value) for name, measure in metrics.measures.get(summary.subject, {}).items()}
    return {**found, **_measure_size(measured.model)}


def _read_seconds(made: Artifact) -> float:
    """Return the seconds of making an artifact."""
    return float(made.timing().get("seconds", 0.0))


def _measure_size(model: Artifact) -> dict[str, float]:
    """Weights of the model that answers, and their bytes on the disk."""
    if is_endpoint(model):
        return {}
    own = sum(entry.size for entry in model.manifest.files if entry.path.endswith(".safetensors"))
    trained = TrainingRecord.read(model).as_json().get("trainable_parameters") or 0
    if is_plain_classifier(model):
        return {"parameters": float(trained), "memory": float(sum(entry.size for entry in model.manifest.files))}
    base = describe_model_folder(find_base_folder(model))
    adapted = any("/" in entry.path for entry in model.manifest.files if entry.path.endswith(".safetensors"))
    return {
        "parameters": float(base.parameters + (trained if adapted else 0)),
        "memory": float(base.weight_bytes + (own if adapted else 0)),
    }


def _ignore_records(_folder: str, names: list[str]) -> list[str]:
    """Return the files that describe an artifact and are not part of the model."""
    return [name for name in names if name in (MANIFEST, TIMING)]


@contextmanager
def _run_in_order(tasks: Sequence[Callable[[], Outcome]], workers: int) -> Iterator[Iterator[Outcome]]:
    """Yield the outcomes of some tasks in order, `workers` at once; an error cancels those that have not started."""
    if workers == 1:
        yield (task() for task in tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            yield (future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()
