"""The subject of a learning curve: the plain classifier or a model, its training rows and its evaluation rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from luthier.artifacts.dataset import DatasetSummary, has_split, read_examples
from luthier.auto.curve.measure import CurveAnswers
from luthier.auto.curve.plain import LabelledTexts, classify_by_draws, draw_nested, list_sizes
from luthier.chat.messages import Example, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.step import Step, StepContext
from luthier.metrics.metric import Metric

if TYPE_CHECKING:
    from luthier.auto.steps.curve import Curve

FEWEST = 20
"""Rows to learn from and to measure on below which no curve is drawn."""
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class CurveSubject:
    """Training and evaluation rows of a curve."""

    title: str
    """Short description of the learner."""
    rows: int
    """Rows of the data set."""
    training: int
    """Training rows."""
    held_out: Sequence[Example]
    """Rows that measure, in the order of the answers."""
    metric: Metric
    task: Literal["label", "text"]
    answers: CurveAnswers | None
    """None where there are too few rows."""
    why: str = ""
    """Why there are no answers."""
    texts: tuple[LabelledTexts, LabelledTexts] | None = None
    """The plain classifier's training and evaluation texts; None for a model."""
    ids: Sequence[str] = ()
    """Ids of the rows that it learned from."""
    seconds_per_label: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def run_classifier(step: Curve, work: StepContext) -> CurveSubject:
    """Train the plain classifier at each size, and classify the measured rows."""
    data = work.inputs["data"]
    about = DatasetSummary.read(data)
    if about.task != "label":
        what = "answers are free text, which the plain classifier does not learn"
        raise DataError(what, where=SourceLocation(field="of"), hint="name a step of kind `tune` in `of`")
    metric = choose_metric(step, "label")
    training = _labelled(data, "train")
    split = choose_split(step, data)
    if split is None:
        held_out, training = training[::4], [example for at, example in enumerate(training) if at % 4]
    else:
        held_out = _labelled(data, split)
    learned, questions = _texts(training), _texts(held_out)
    why = _explain_lack(learned, questions)
    answers = None
    if not why:
        draws = draw_nested(len(learned), step.sizes, step.repeats or REPEATS, work.seed)
        found = classify_by_draws(
            learned, questions, draws, lambda done, total: work.events.progress(done, total, "trainings")
        )
        answers = CurveAnswers.of(metric, draws.counts, found)
    return CurveSubject(
        title="plain classifier",
        rows=sum(about.rows.values()),
        training=len(learned),
        held_out=held_out,
        metric=metric,
        task="label",
        answers=answers,
        why=why,
        texts=(learned, questions),
        ids=[example.id for example in training],
        seconds_per_label=step.seconds_per_label or compute_median_seconds(training),
        notes={} if split else {"held-out rows": "there are none; every fourth training row measures instead"},
    )


def run_model(step: Curve, work: StepContext) -> CurveSubject:
    """Train the model at each size and evaluate it, by children of this step."""
    from luthier.eval.evaluator import TUNED
    from luthier.eval.predictions import read_answers
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.eval.task import read_held_out_task
    from luthier.tune.steps.tune import Tune

    data, of = work.inputs["data"], step.of or ""
    about = DatasetSummary.read(data)
    metric = choose_metric(step, about.task)
    split = choose_split(step, data)
    if split is None:
        what = "there are no held-out rows to measure a model on"
        raise DataError(what, where=SourceLocation(field="split"), hint="set `split: {validation: 0.1}` in `prepare`")
    tune = work.children.steps[of]
    assert isinstance(tune, Tune)
    training = min(about.rows.get("train", 0), tune.max_train_samples or about.rows.get("train", 0))
    task = read_held_out_task(data, split, None)
    counts = list_sizes(training, step.sizes)
    why = ""
    if min(training, len(task.examples)) < FEWEST:
        why = _few(training, len(task.examples))
    answers = None
    if not why:
        found = []
        for at, count in enumerate(counts):
            work.events.progress(at, len(counts), "trainings")
            name = of if count == training else f"{of}_{count}"
            steps: dict[str, Step] = {} if count == training else {name: _limit_samples(tune, count)}
            asking = f"{of}_{count}_evaluation"
            steps[asking] = Evaluate(
                data=step.data,
                model=name,
                metrics=(metric,),
                split=split,
                baselines=(),
                compare_base=False,
                tasks=(),
                on=tune.on,
            )
            ids, replies = read_answers(work.children.make(steps, asking), TUNED)
            index = {row: number for number, row in enumerate(ids)}
            found.append([replies.select([index[example.id] for example in task.examples])])
        answers = CurveAnswers.of(metric, counts, found)
    return CurveSubject(
        title=f"model of {of!r}",
        rows=sum(about.rows.values()),
        training=training,
        held_out=task.examples,
        metric=metric,
        task=about.task,
        answers=answers,
        why=why,
        seconds_per_label=step.seconds_per_label or compute_median_seconds(read_examples(data, "train")),
        notes={"cleaning": "it is measured by the plain classifier; leave `of` out"},
    )


def choose_metric(step: Curve, task: str) -> Metric:
    """The metric of the settings, of the target, or the usual one; `RecipeError` for one that the rows do not fit."""
    from luthier.auto.curve.findings import parse_target
    from luthier.eval.defaults import explain_unfit_metric
    from luthier.eval.task import TaskType

    metric = step.metric
    if metric is None and step.target is not None:
        metric = Metric.parse(parse_target(step.target, None).name)
    if metric is None:
        metric = Metric.parse("accuracy" if task == "label" else "rougeL")
    if why := explain_unfit_metric(metric, TaskType("label" if task == "label" else "text", False)):
        raise RecipeError(why, where=SourceLocation(field="metric"), hint="name a metric of the data's own kind")
    if metric.scored:
        what = f"{metric.kind} reads scores that a curve does not have"
        raise RecipeError(what, where=SourceLocation(field="metric"), hint="name a metric of answers and references")
    return metric


def choose_split(step: Curve, data: Artifact) -> Literal["validation", "test"] | None:
    """The rows that measure; `DataError` where the named split is not there, None where nothing is held out."""
    if step.split is not None:
        if not has_split(data, step.split):
            hint = "leave `split` out, or set its share in `prepare`"
            raise DataError(f"the data set has no split {step.split!r}", where=SourceLocation(field="split"), hint=hint)
        return step.split
    for split in ("validation", "test"):
        if has_split(data, split):
            return split
    return None


def compute_median_seconds(examples: Sequence[Example]) -> float | None:
    """Return the median seconds of labelling a row, from the rows' annotations; None where unknown."""
    from luthier.data.annotation.annotations import judgments_of

    found = [
        float(seconds)
        for example in examples
        for judgment in judgments_of(example.meta)
        if isinstance(seconds := judgment.get("seconds"), int | float) and seconds > 0
    ]
    return statistics.median(found) if found else None


def _limit_samples(tune: Step, count: int) -> Step:
    return type(tune).model_validate({**tune.settings(), "max_train_samples": count})


def _labelled(data: Artifact, split: str) -> list[Example]:
    if not has_split(data, split):
        return []
    return [example for example in read_examples(data, split) if example.label is not None and example.messages]


def _texts(examples: Sequence[Example]) -> LabelledTexts:
    return LabelledTexts([user_text_of(example) for example in examples], [str(example.label) for example in examples])


def _explain_lack(learned: LabelledTexts, held_out: LabelledTexts) -> str:
    if min(len(learned), len(held_out)) < FEWEST:
        return _few(len(learned), len(held_out))
    if len(set(learned.labels)) < 2:
        return "all training rows have one class, and there is nothing to tell apart"
    return ""


def _few(learned: int, held_out: int) -> str:
    return (
        f"{learned:,} rows to learn from and {held_out:,} to measure on are too few to draw a curve; at least "
        f"{FEWEST} of each are needed"
    )
