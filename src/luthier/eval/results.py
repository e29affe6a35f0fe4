"""The metrics of an evaluation: values with intervals and power, and paired differences.

Statistics of rows become the files `metrics.json`, `compare_with_models.json` and `summary.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore, ProbeOrTaskScore
from luthier.artifacts.findings import ProbeRow
from luthier.core.artifact import Artifact
from luthier.core.events import format_counted_noun
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.eval import analysis
from luthier.eval.evaluator import ModelResult
from luthier.eval.probe import ProbeContext, ProbeMeasure, adjust_measure_p_values
from luthier.eval.report.facts import models as facts
from luthier.eval.report.formatting import find_best_baseline, verdict_sentence
from luthier.eval.task import HeldOutTask, find_last_turns, list_conversation_ids
from luthier.metrics.columns import compare_paired_accuracy
from luthier.metrics.metric import Metric
from luthier.metrics.metric import MetricResult as Measured
from luthier.metrics.paired import PairedComparison, compare_row_statistics, minimum_detectable_difference

if TYPE_CHECKING:
    from luthier.chat.messages import Message
    from luthier.metrics.intervals import Floats, Interval, IntervalJob, Method

SAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class EvaluationOutcome:
    """The results of an evaluation, and warnings for the user."""

    metrics: EvaluationMetrics
    comparisons: Sequence[Mapping[str, Any]]
    summary: EvaluationSummary
    warnings: Sequence[str]
    probed: Sequence[ProbeRow]
    """What probes asked, row by row."""


def measure_evaluation(
    metrics: Sequence[Metric],
    models: Sequence[ModelResult],
    measures: Sequence[ProbeMeasure],
    context: ProbeContext,
    *,
    name: str,
    request_settings: Mapping[str, Any],
) -> EvaluationOutcome:
    """Measure every model, compare the first with the others, add `measures`, and say it in plain words."""
    task, answers, seed = context.task, context.answers, context.seed
    measured = analysis.compute_model_scores(metrics, answers, seed)
    compared = analysis.compare_with_models(metrics, answers, models[0].name, seed)
    suffix = f"|rows:{task.digest[:12]}|asked:{digest_of(dict(request_settings))[:12]}"
    evaluation_facts = _facts(context, metrics, models, measured, compared, name)
    return EvaluationOutcome(
        metrics=EvaluationMetrics(models=_scores(measured, suffix), measures=_measures(measures, suffix)),
        comparisons=[*compared, *_probed(measures, models[0].name)],
        summary=_summary(task, models, evaluation_facts, request_settings, metrics),
        warnings=evaluation_facts.notes,
        probed=context.rows,
    )


def _probed(measures: Sequence[ProbeMeasure], subject: str) -> list[dict[str, Any]]:
    """The subject against every other model in every measure; Holm's correction goes over all of them."""
    others = [other for measure in measures for other in measure.against]
    pairs = zip(others, adjust_measure_p_values(measures), strict=True)
    return [{"a": subject, "b": other, "family": "probes", **found.as_json()} for other, found in pairs]


def _scores(measured: Mapping[str, Mapping[str, Measured]], suffix: str) -> dict[str, dict[str, MetricScore]]:
    return {
        model: {
            kind: MetricScore.model_validate({**score.as_json(), "signature": score.signature + suffix})
            for kind, score in of_model.items()
        }
        for model, of_model in measured.items()
    }


def _measures(measures: Sequence[ProbeMeasure], suffix: str) -> dict[str, dict[str, ProbeOrTaskScore]]:
    found: dict[str, dict[str, ProbeOrTaskScore]] = {}
    for measure in measures:
        shown = {**measure.as_json(), "signature": measure.signature + suffix}
        found.setdefault(measure.model, {})[measure.name] = ProbeOrTaskScore.model_validate(shown)
    return found


def _summary(
    task: HeldOutTask,
    models: Sequence[ModelResult],
    evaluation_facts: facts.EvaluationFacts,
    request_settings: Mapping[str, Any],
    metrics: Sequence[Metric],
) -> EvaluationSummary:
    """The facts of the report, with how the rows were asked and the answer in plain words."""
    subject = models[0].name
    best = find_best_baseline(evaluation_facts)
    against = [name for name in ("base", "against", best.name if best else "") if name and name != subject]
    headline = [
        evaluation_facts.compared(subject, other, evaluation_facts.main_metric) for other in dict.fromkeys(against)
    ]
    found = {
        **evaluation_facts.model_dump(mode="json", exclude={"everything", "probed", "advice"}),
        "verdict_sentence": verdict_sentence(evaluation_facts),
        "subject": subject,
        "headline": [row.model_dump(mode="json") for row in headline if row is not None],
        "order": [model.name for model in models],
        "digests": {model.name: model.digest for model in models if model.digest},
        "labels": task.labels,
        "options": dict(task.options),
        "split": task.split,
        "rows_available": task.available,
        "rows_digest": task.digest,
        "asked": dict(request_settings),
        "measured": [metric.settings() for metric in metrics],
    }
    return EvaluationSummary.model_validate(found)


def _facts(
    context: ProbeContext,
    metrics: Sequence[Metric],
    models: Sequence[ModelResult],
    measured: Mapping[str, Mapping[str, Measured]],
    compared: Sequence[Mapping[str, Any]],
    name: str,
) -> facts.EvaluationFacts:
    """Everything that the report shows of this evaluation."""
    task, answers = context.task, context.answers
    is_label = task.kind == "label"
    subject, rival = models[0], next((model for model in models[1:] if model.role == "base"), None)
    fixed, broken = analysis.find_flipped_rows(task, subject, rival) if is_label and rival else ([], [])
    columns = analysis.find_slicing_columns(task.examples, read_row_attributes(context.data))
    return facts.EvaluationFacts(
        name=name,
        task=task.kind,
        rows=len(task.examples),
        main_metric=metrics[0].kind,
        models=tuple(_model_facts(model, measured[model.name]) for model in models),
        comparisons=analysis.comparison_facts(compared),
        confusions=analysis.count_confusions(task, models) if is_label else (),
        classes=analysis.compute_class_f1(task, models) if is_label else (),
        reliability=analysis.compute_reliability_bins(answers, measured) if is_label else (),
        slices=analysis.compute_slice_scores(
            columns, metrics[0], answers, context.seed, subject=subject.name, rival=rival.name if rival else None
        ),
        fixed=analysis.row_facts(task, models, fixed[: analysis.SHOWN]),
        broken=analysis.row_facts(task, models, broken[: analysis.SHOWN]),
        samples=analysis.row_facts(task, models, analysis.pick_evenly_spaced_rows(len(task.examples), SAMPLES)),
        notes=(*_notes(task, models), *context.notes),
    )


def _model_facts(model: ModelResult, measured: Mapping[str, Measured]) -> facts.ModelFacts:
    shown = {kind: analysis.score_to_fact(score) for kind, score in measured.items()}
    return facts.ModelFacts(name=model.name, title=model.title, role=model.role, metrics=shown)


def _notes(task: HeldOutTask, models: Sequence[ModelResult]) -> list[str]:
    """What a reader should know of how the answers came about."""
    notes = []
    if task.pairs:
        notes.append(
            gettext_noop(
                "Each row holds two answers, first or second by chance; asked is which of them people preferred."
            )
        )
    notes.extend(
        gettext_noop(f"{format_counted_noun(count, 'pair was', 'pairs were')} left out: {why}.")
        for why, count in sorted(task.left.items())
    )
    asked_count = len(find_last_turns(task))
    if asked_count < task.available:
        notes.append(gettext_noop(f"{asked_count:,} of the {task.available:,} rows of {task.split} were asked."))
    if list_conversation_ids([example.id for example in task.examples]):
        notes.append(
            gettext_noop(
                f"{len(task.examples):,} turns of {asked_count:,} conversations: intervals and tests are computed over "
                "conversations."
            )
        )
    for model in models:
        cut = sum(reply.finished is False for reply in model.replies)
        if cut:
            replies, title = len(model.replies), model.title
            notes.append(
                gettext_noop(
                    f"{cut:,} of {replies:,} answers of {title} were cut at the limit of tokens (max_new_tokens)."
                )
            )
    if task.split == "train":
        notes.append(
            gettext_noop("These rows were trained on: the scores say what was remembered, not what was learnt.")
        )
    return notes


def read_row_attributes(data: Artifact) -> dict[str, dict[str, Any]]:
    """Columns that operators wrote, by row id; lists and texts that are not short are of no use here."""
    import polars as pl

    found: dict[str, dict[str, Any]] = {}
    for entry in data.manifest.files:
        if entry.path.startswith("attributes/") and entry.path.endswith(".parquet"):
            frame = pl.read_parquet(data.path(entry.path))
            for column in frame.columns:
                if column != "id" and frame[column].dtype in (pl.String, pl.Boolean, pl.Int64):
                    found[column] = dict(zip(frame["id"].to_list(), frame[column].to_list(), strict=True))
    return found


@dataclass(frozen=True, kw_only=True)
class SummedStatistic:
    """A statistic that is a function of sums over rows; the rows are the same for every model."""

    name: str
    value: Callable[[Floats], Floats]
    """(b, k) to (b,)."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The least and greatest value there can be; also what a row of its own is taken to lie between."""
    proportion: bool = False
    """Whether each row is right or wrong and the columns are (so, rows): then Wilson's interval is used."""
    ends: Callable[[Floats], tuple[float, float]] | None = None
    """The ends of its interval from the sums (1, k), where the bootstrap's would not hold."""
    method: Method = "bca"
    """How the interval of the difference between two models is made (`luthier.metrics.intervals.Job`)."""
    lower_is_better: bool = True
    signature: str = ""
    """Settings that decide the value."""


def compute_ratio(sums: Floats) -> Floats:
    """The first column as a share of the second, (b, 2) to (b,); 0 for no rows."""
    import numpy as np

    found: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    return found


def compute_probe_measures(
    statistic: SummedStatistic,
    blocks: Mapping[str, Floats],
    context: ProbeContext,
    details: Mapping[str, Mapping[str, float]] | None = None,
) -> list[ProbeMeasure]:
    """Compute a probe's statistic for each model from (rows, k) columns; the subject model is compared with all others.
    Nothing comes of no rows."""
    from luthier.metrics.intervals import IntervalJob, compute_intervals

    if not blocks or not len(next(iter(blocks.values()))):
        return []
    span = None if statistic.proportion else statistic.bounds
    jobs = [
        IntervalJob(blocks=(block,), value=lambda sums: statistic.value(sums[0]), span=span)
        for block in blocks.values()
    ]
    intervals = [
        _ended(statistic, job, interval)
        for job, interval in zip(jobs, compute_intervals(jobs, seed=context.seed), strict=True)
    ]
    subject = next(iter(context.answers))
    method = "score" if statistic.ends else "wilson" if statistic.proportion else "bca"
    return [
        ProbeMeasure(
            name=statistic.name,
            model=model,
            value=interval.value,
            low=max(interval.low, statistic.bounds[0]),
            high=min(interval.high, statistic.bounds[1]),
            rows=len(block),
            signature=f"{statistic.name}|v:1|{statistic.signature}|interval:{method}95".replace("||", "|"),
            detail=(details or {}).get(model, {}),
            detectable=minimum_detectable_difference(interval.standard_error),
            against=_against(statistic, blocks, subject, context.seed) if model == subject else {},
        )
        for (model, block), interval in zip(blocks.items(), intervals, strict=True)
    ]


def _ended(statistic: SummedStatistic, job: IntervalJob, found: Interval) -> Interval:
    """The interval with the statistic's own ends, when it has some."""
    from luthier.metrics.intervals import sum_rows

    if statistic.ends is None:
        return found
    low, high = statistic.ends(sum_rows(job.blocks[0]))
    return replace(found, low=min(low, found.value), high=max(high, found.value))


def measure_generated_answers(
    statistic: SummedStatistic,
    context: ProbeContext,
    probe: str,
    prompts: Mapping[str, tuple[Message, ...]],
    *,
    limit: int,
    counts: Callable[[str], bool],
    fails: Callable[[str], bool],
    expected: str | None,
) -> list[ProbeMeasure]:
    """Generate answers of at most `limit` tokens with each model, and measure the share that counts.

    `prompts` are by the row's name; `fails` says which answers are held against a model, and `expected` what would have
    been right there.
    """
    import numpy as np

    blocks = {}
    for model, eval_model in context.able("generate", statistic.name).items():
        completions = [entry.strip() for entry in eval_model.generate(list(prompts.values()), limit)]
        blocks[model] = np.array([[float(counts(answer)), 1.0] for answer in completions])
        context.rows.extend(
            ProbeRow(
                probe=probe,
                model=model,
                row=row,
                prompt=prompt,
                completion=answer,
                expected=expected,
                failed=fails(answer),
            )
            for (row, prompt), answer in zip(prompts.items(), completions, strict=True)
        )
    return compute_probe_measures(statistic, blocks, context)


def _against(
    statistic: SummedStatistic, blocks: Mapping[str, Floats], subject: str, seed: int
) -> dict[str, PairedComparison]:
    return {
        other: _compared(statistic, blocks[subject], block, seed) for other, block in blocks.items() if other != subject
    }


def _compared(statistic: SummedStatistic, mine: Floats, its: Floats, seed: int) -> PairedComparison:
    """Right and wrong rows that count for both by McNemar's test, all else by the bootstrap."""
    lower = statistic.lower_is_better
    if statistic.proportion and (mine[:, 1] == its[:, 1]).all():
        counted = mine[:, 1] > 0
        comparison = compare_paired_accuracy(statistic.name, mine[counted, 0].tolist(), its[counted, 0].tolist())
        return (
            replace(comparison, fixed=comparison.broken, broken=comparison.fixed, lower_is_better=True)
            if lower
            else comparison
        )
    width = statistic.bounds[1] - statistic.bounds[0]
    return compare_row_statistics(
        statistic.name,
        (mine, its),
        statistic.value,
        width=width,
        lower_is_better=lower,
        seed=seed,
        method=statistic.method,
    )
