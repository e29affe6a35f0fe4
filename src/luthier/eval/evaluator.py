"""Run the models of an evaluation on its tasks and score their predictions.

The models are the tuned model, its base and the baselines. Results are scores with intervals, paired comparisons and
each row's answer. Scorers (a judge, an encoder, a process) add columns to each completion. A trained reward model
judges completions without their model's name. Held-out rows may be grouped by a column.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.chat.messages import Message, answer_of, prompt_of, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.context import RunContext
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.core.files import translate_write_errors
from luthier.core.hashing import canonical_json, digest_of
from luthier.core.messages import gettext_noop
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.core.step import StepContext
from luthier.eval.baseline import Baseline
from luthier.eval.cached_model import CachedEvalModel
from luthier.eval.probe import ProbeContext, ProbeMeasure
from luthier.eval.report.facts.models import PLAIN
from luthier.eval.task import DROP, BenchmarkTask, EvalTask, HeldOutTask, Reply, TaskContext, TaskResult
from luthier.metrics.columns import RowScores
from luthier.metrics.metric import Metric
from luthier.metrics.paired import PairedComparison
from luthier.models.lm.base import find_ability

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.core.events import StepEventEmitter
    from luthier.eval.local_model import InferenceSettings
    from luthier.eval.media_ablation import EvalMedia
    from luthier.eval.model import EvalModel
    from luthier.models.lm.cached import AnswerCache
    from luthier.models.reward_model import RewardModel

Role = Literal["tuned", "base", "other", "plain"]
TUNED, BASE, AGAINST = "tuned", "base", "against"
"""Roles of models: the evaluated model (if tuned), its base, and a further one, such as the released one."""
_TITLES: Mapping[str, str] = {TUNED: gettext_noop("the tuned model"), AGAINST: gettext_noop("the compared model")}
_ROLES: Mapping[str, Role] = {TUNED: "tuned", AGAINST: "other"}


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model or baseline with its answers."""

    name: str
    title: str
    role: Role
    replies: Sequence[Reply]
    digest: str = ""
    """The model's artifact; empty for a baseline."""


def build_evaluated_models(
    models: Mapping[str, Artifact],
    question: InferenceSettings,
    work: StepContext,
    media: EvalMedia | None = None,
    *,
    blind: Collection[str] = (),
) -> list[EvalModel]:
    """Models as they can be asked, by name; where rows have media of the kinds `blind`, the first once more without.

    `media` holds the bytes of pictures and sounds; None: those of the data set.
    """
    from luthier.eval.baseline import ClassifierEvalModel
    from luthier.eval.local_model import LocalEvalModel
    from luthier.eval.media_ablation import BlindEvalModel, EvalMedia
    from luthier.models.lm.local import ModelCache
    from luthier.models.load import is_plain_classifier

    cache, calls = ModelCache(), work.scratch / "calls"
    media = media or EvalMedia(work.inputs.get("data"))
    eval_models: list[EvalModel] = []
    for name, artifact in models.items():
        title = _TITLES.get(name, gettext_noop("the base model"))
        if is_plain_classifier(artifact):
            eval_models.append(ClassifierEvalModel(artifact, name=name, title=PLAIN if name == TUNED else title))
        else:
            eval_model = LocalEvalModel.of(
                artifact, question, cache, calls, name=name, title=title, read_media=media.read
            )
            eval_models.append(eval_model)
            if blind and len(eval_models) == 1:
                eval_models.append(BlindEvalModel(eval_model, media, silent=set(blind) == {"audio"}))
    return eval_models


def apply_label_thresholds(eval_models: Sequence[EvalModel], thresholds: Artifact | None) -> list[EvalModel]:
    """Return the models, with the first one's labels decided by thresholds if there are any."""
    from luthier.eval.thresholds import ThresholdedModel, Thresholds

    if thresholds is None:
        return list(eval_models)
    return [ThresholdedModel(eval_models[0], Thresholds.of(thresholds)), *eval_models[1:]]


def open_evaluation_cache(work: StepContext) -> AnswerCache:
    """The answers that are known already."""
    from luthier.eval.local_model import open_answer_cache

    return open_answer_cache(work.kept or work.scratch / "answers")


def evaluate_language_models(
    models: Mapping[str, Artifact],
    eval_models: Sequence[EvalModel],
    task: HeldOutTask,
    known: AnswerCache,
    events: StepEventEmitter,
    seconds: dict[str, float],
) -> list[ModelResult]:
    """Ask each model every row that is not cached; `seconds` receives each one's time."""
    from luthier.eval.local_model import collect_model_replies

    found = []
    for eval_model in eval_models:
        started = time.perf_counter()
        replies = collect_model_replies(eval_model, task, known, events)
        seconds[eval_model.name] = time.perf_counter() - started
        role = _ROLES.get(eval_model.name, "base") if eval_model.is_model else "plain"
        digest = models[eval_model.name].digest if eval_model.name in models else ""
        found.append(
            ModelResult(name=eval_model.name, title=eval_model.title, role=role, replies=replies, digest=digest)
        )
    return found


def build_trained_baselines(baselines: Sequence[Baseline], data: Artifact, model: Artifact) -> list[EvalModel]:
    """Fit each baseline to the rows that the tuned model was trained on."""
    from luthier.artifacts.dataset import has_split, read_examples
    from luthier.eval.model import TrainedBaseline

    train = read_examples(data, "train") if baselines and has_split(data, "train") else []
    trained_examples = select_trained_rows(model, train)
    return [TrainedBaseline(baseline, trained_examples) for baseline in baselines]


def evaluate_baselines(
    eval_models: Sequence[EvalModel], task: HeldOutTask, seconds: dict[str, float]
) -> list[ModelResult]:
    """Fit each baseline and evaluate it."""
    found = []
    for eval_model in eval_models:
        started = time.perf_counter()
        replies = eval_model.answer(task.examples, task)
        seconds[eval_model.name] = time.perf_counter() - started
        found.append(ModelResult(name=eval_model.name, title=eval_model.title, role="plain", replies=replies))
    return found


def find_origin_model(model: Artifact) -> Artifact | None:
    """The model that a tuned one began with, up through its whole lineage; None for a base model itself, and for one
    that began with none."""
    from luthier.models.load import find_origin_artifact

    origin = find_origin_artifact(model)
    return None if origin is model else origin


def select_trained_rows(model: Artifact, train: Sequence[Example]) -> list[Example]:
    """Return the rows that the tuned model was trained on, so that a baseline is fitted to the same; else all."""
    if not any(entry.path == "training_examples.parquet" for entry in model.manifest.files):
        return list(train)
    import polars as pl

    frame = pl.read_parquet(model.path("training_examples.parquet"))
    trained_ids = set(frame.filter(pl.col("seen") > 0)["id"].to_list())
    return [example for example in train if example.id in trained_ids] or list(train)


TASKS = "tasks.parquet"


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """The results of all tasks."""

    benchmarks: Sequence[BenchmarkTask]
    grades: Mapping[str, Mapping[str, TaskResult]]
    """By model and benchmark; the model that the evaluation is about first."""
    seed: int

    @property
    def subject(self) -> str:
        """The model that the evaluation is about."""
        return next(iter(self.grades))

    @property
    def rival(self) -> str | None:
        """The model that the subject began with, when it was asked as well."""
        return BASE if BASE in self.grades and self.subject != BASE else None

    def columns(self, model: str) -> dict[str, RowScores]:
        """A model's scores by name; those of a set of benchmarks are over all its rows."""
        found: dict[str, RowScores] = {}
        for benchmark in self.benchmarks:
            for name, column in self.grades[model][benchmark.name].columns.items():
                found[f"{benchmark.name}.{name}"] = column
                for group in benchmark.groups:
                    key, own = f"{group}.{name}", column.alike_weighted() if group in benchmark.equal_groups else column
                    if own is not None:
                        found[key] = found[key].joined(own) if key in found else own
        return found

    def signature(self, name: str) -> str:
        """Return the signature of a score: its benchmark's, or that of its set."""
        task = name.split(".", 1)[0]
        members = [benchmark.signature for benchmark in self.benchmarks if task in benchmark.groups]
        own = next((benchmark.signature for benchmark in self.benchmarks if benchmark.name == task), "")
        return f"{name}|{own or 'tasks:' + digest_of(members)[:12]}|interval:95"

    def measures(self) -> Iterator[ProbeMeasure]:
        """Every score of every model, and what the subject lost against its rival."""
        for model in self.grades:
            for name, column in self.columns(model).items():
                interval = column.measured(self.seed)
                yield ProbeMeasure(
                    name=name,
                    model=model,
                    value=interval.value,
                    low=interval.low,
                    high=interval.high,
                    rows=len(column),
                    signature=self.signature(name),
                    detail={},
                    against=self._against(name) if model == self.subject else {},
                )
        yield from self._drops()

    def losses(self) -> dict[str, PairedComparison]:
        """The rival minus the subject in the first score of each benchmark and set, where more is better."""
        if self.rival is None:
            return {}
        mine, its = self.columns(self.subject), self.columns(self.rival)
        firsts: dict[str, str] = {}
        for name in mine:
            firsts.setdefault(name.split(".", 1)[0], name)
        return {
            name: its[name].against(name, mine[name], self.seed)
            for name in firsts.values()
            if not mine[name].lower_is_better
        }

    def _against(self, name: str) -> dict[str, PairedComparison]:
        row_scores = self.columns(self.subject)[name]
        others = [model for model in self.grades if model != self.subject]
        return {other: row_scores.against(name, self.columns(other)[name], self.seed) for other in others}

    def _drops(self) -> Iterator[ProbeMeasure]:
        for name, lost in self.losses().items():
            yield ProbeMeasure(
                name=f"{name.split('.', 1)[0]}.{DROP}",
                model=self.subject,
                value=lost.difference,
                low=lost.low,
                high=lost.high,
                rows=lost.rows,
                signature=self.signature(name),
                detail={"lost rows": float(lost.fixed), "gained rows": float(lost.broken)},
                detectable=lost.detectable,
            )


def run_eval_tasks(tasks: Sequence[EvalTask], context: ProbeContext, work: StepContext) -> list[ProbeMeasure]:
    """Run all tasks on the models that support them, and write the tasks' rows; notes are remarks for the reader."""
    benchmarks = _benchmarks(tasks, context, work)
    verbs = {find_ability(question) for benchmark in benchmarks for question in benchmark.questions}
    able = context.able(verbs, "The tasks' questions: what they ask") if benchmarks else {}
    if not able:
        return []
    results = EvaluationResults(benchmarks=benchmarks, grades=_grades(benchmarks, able), seed=work.seed)
    _write(results, work.folder / TASKS)
    context.notes.extend(_notes(results))
    return list(results.measures())


def _grades(
    benchmarks: Sequence[BenchmarkTask], able: Mapping[str, CachedEvalModel]
) -> dict[str, dict[str, TaskResult]]:
    """Return models in an order that reuses loaded weights."""
    found = {}
    for name in reversed(list(able)):
        found[name] = {
            benchmark.name: benchmark.run(partial(able[name].tell, about=f"questions of {benchmark.name}"))
            for benchmark in benchmarks
        }
    return {name: found[name] for name in able}


def _benchmarks(tasks: Sequence[EvalTask], context: ProbeContext, work: StepContext) -> list[BenchmarkTask]:
    task_context = TaskContext(
        recipe_dir=work.recipe_dir, seed=work.seed, events=work.events, examples=context.task.examples
    )
    benchmarks = [benchmark for task in tasks for benchmark in task.benchmarks(task_context)]
    names = [benchmark.name for benchmark in benchmarks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{twice!r} is asked twice", where=SourceLocation(field=f"steps.{work.name}.tasks"))
    return benchmarks


def _notes(results: EvaluationResults) -> Iterator[str]:
    columns = results.columns(results.subject)
    for name, lost in results.losses().items():
        if lost.low > 0:
            ends = (columns[name].points * value for value in (lost.difference, lost.low, lost.high))
            gap, low, high = (f"{value:.1f}" for value in ends)
            yield gettext_noop(
                f"Asked the same as its base ({name}), the tuned model is {gap} points lower (95 % interval {low} to "
                f"{high})."
            )
    for model, own in results.grades.items():
        for benchmark in results.benchmarks:
            if cut := own[benchmark.name].cut:
                yield gettext_noop(
                    f"{cut:,} of {len(benchmark.items):,} prompts of {benchmark.name} were too long for the {model} "
                    "model and lost their beginning."
                )


def _write(results: EvaluationResults, path: Path) -> None:
    """Write every row of every task with each model's answer and scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        row for model in results.grades for benchmark in results.benchmarks for row in _rows(benchmark, model, results)
    ]
    names = ("task", "row", "model", "asked", "reference", "said", "scores")
    with translate_write_errors(path):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])), path)


def _rows(benchmark: BenchmarkTask, model: str, results: EvaluationResults) -> list[dict[str, str]]:
    graded = results.grades[model][benchmark.name]
    each = {name: scores.each for name, scores in graded.columns.items()}
    return [
        {
            "task": benchmark.name,
            "row": item.id,
            "model": model,
            "asked": item.shown,
            "reference": item.reference,
            "said": prediction,
            "scores": canonical_json({name: column[at] for name, column in each.items()}),
        }
        for at, (item, prediction) in enumerate(zip(benchmark.items, graded.predictions, strict=True))
    ]


JUDGED = ("reward", "reward_won")
"""The columns that a reward model fills: its number, and 1 where that is above the number of the data's answer."""


def add_reward_scores(models: Sequence[ModelResult], judge: RewardModel, task: HeldOutTask) -> list[ModelResult]:
    """Return the same models, each reply with the score that the reward model gives it."""
    known = judge([(*prompt_of(example), _said(answer_of(example))) for example in task.examples], _tools(task))
    return [_judged(model, judge, task, known) for model in models]


def _judged(model: ModelResult, judge: RewardModel, task: HeldOutTask, known: Sequence[float]) -> ModelResult:
    pairs = zip(task.examples, model.replies, strict=True)
    found = judge([(*prompt_of(example), _said(reply.prediction)) for example, reply in pairs], _tools(task))
    replies = [
        replace(reply, columns={**(reply.columns or {}), "reward": round(mine, 6), "reward_won": _won(mine, its)})
        for reply, mine, its in zip(model.replies, found, known, strict=True)
    ]
    return replace(model, replies=replies)


def _tools(task: HeldOutTask) -> list[tuple[dict[str, Any], ...]]:
    return [example.tools for example in task.examples]


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)


def _won(mine: float, its: float) -> float:
    return 0.5 if mine == its else float(mine > its)


def explain_metric_scorer_mismatch(
    metrics: Sequence[Metric] | None, scorers: Sequence[Scorer], judged: Sequence[str] = ()
) -> str:
    """Return why metrics and scorers do not match; empty when they do. `judged`: the reward model's columns."""
    written = {*judged, *(name for scorer in scorers for name in scorer.writes)}
    for metric in metrics or ():
        if lacking := [name for name in metric.scored if name not in written]:
            able = [
                kind for kind, other in sorted(components_by_kind(Scorer).items()) if set(lacking) & set(other.writes)
            ]
            suggestion = f"; name one in `scorers`: {', '.join(able)}" if able else ""
            suggestion = "; name the step that makes a `reward_model`" if lacking[0] in JUDGED else suggestion
            return f"{metric.kind} reads {lacking[0]!r}, which no scorer writes{suggestion}"
    read = {name for metric in metrics or components_by_kind(Metric).values() for name in metric.scored}
    idle = [scorer.kind for scorer in scorers if not read & set(scorer.writes)]
    if judged and not read & set(judged):
        return "no metric reads what the reward_model says; name `reward` or `reward_wins`, or take it out"
    return f"no metric reads what the scorer {idle[0]} writes; name such a metric, or take it out" if idle else ""


def select_scored_metrics(scorers: Sequence[Scorer], judged: Sequence[str] = ()) -> tuple[Metric, ...]:
    """The metrics, with their defaults, that read what scorers, and a reward model, write."""
    written = {*judged, *(name for scorer in scorers for name in scorer.writes)}
    able = {kind: metric for kind, metric in sorted(components_by_kind(Metric).items()) if metric.scored}
    return tuple(
        metric.model_validate({"kind": kind})
        for kind, metric in able.items()
        if set(metric.scored) <= written and kind != "judge_consistency"
    )


def attach_scorer_columns(
    models: Sequence[ModelResult], scorers: Sequence[Scorer], task: HeldOutTask, work: StepContext
) -> list[ModelResult]:
    """Return the models, with the scorers' numbers in each answer."""
    if not scorers:
        return list(models)
    path = work.scratch / "scorers"
    path.mkdir(exist_ok=True)
    model = work.inputs["model"]
    context = replace(work, kept=path, models=lambda name: _folder(name, model, work))
    return [_scored(model_result, scorers, task, context) for model_result in models]


def _scored(model: ModelResult, scorers: Sequence[Scorer], task: HeldOutTask, context: RunContext) -> ModelResult:
    rows = [
        ScorerRow(question=user_text_of(example), prediction=reply.prediction, references=(reference,))
        for example, reply, reference in zip(task.examples, model.replies, task.references, strict=True)
    ]
    columns: dict[str, Column] = {}
    for scorer in scorers:
        columns |= scorer.columns(rows, context)
    replies = [
        replace(reply, columns={name: column[row] for name, column in columns.items()})
        for row, reply in enumerate(model.replies)
    ]
    return replace(model, replies=replies)


def _folder(name: str, model: Artifact, work: StepContext) -> Path:
    """Return the folder of the base model, by its name; else any published one that is on this machine."""
    from luthier.models.catalog import resolve_model_source
    from luthier.models.load import find_base_folder, find_origin_artifact, get_model_name, is_endpoint

    if not is_endpoint(model) and name in ("base", get_model_name(find_origin_artifact(model))):
        return find_base_folder(find_origin_artifact(model))
    return resolve_model_source(name, work.recipe_dir).in_place(work.recipe_dir, work.events.note)


def group_rows_by_column(task: HeldOutTask, column: str, least: int, kind: str) -> dict[str, list[int]]:
    """Row numbers of each group with at least `least` rows, by name; `RecipeError` unless two are that large."""
    where = SourceLocation(field="probes")
    if task.kind != "label":
        raise RecipeError(f"{kind} compares labels, which a task of texts does not have", where=where)
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(task.examples):
        if example.meta.get(column) is not None:
            groups.setdefault(str(example.meta[column]), []).append(row)
    if not groups:
        known = {name for example in task.examples for name in example.meta}
        raise RecipeError(f"no row has {column!r}", where=where, hint=did_you_mean(column, known))
    large = {name: rows for name, rows in sorted(groups.items()) if len(rows) >= least}
    if len(large) < 2:
        what = (
            f"column {column!r} has {format_counted_noun(len(large), 'group')} of at least {least} rows; two are needed"
        )
        raise RecipeError(what, where=where, hint="evaluate more rows, or set a smaller `min`")
    return large
