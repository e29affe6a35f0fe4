"""What an evaluation found: `metrics.json`, `comparisons.json`, `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.counted import counted
from luthier.core.digest import digest_of
from luthier.eval import analysis
from luthier.eval.contestant import Contestant
from luthier.eval.probe import Bench, Measure, family
from luthier.eval.report.facts import models as facts
from luthier.eval.report.sentence import best_plain, verdict_sentence
from luthier.eval.rows import Task
from luthier.eval.turns import conversations, last_turns
from luthier.metrics.metric import Metric
from luthier.metrics.metric import Score as Measured
from luthier.text.evaluation import EvaluationMetrics, EvaluationSummary, MeasureScore, MetricScore
from luthier.text.probed import Probed

SAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an evaluation found, and what the user should look at."""

    metrics: EvaluationMetrics
    comparisons: Sequence[Mapping[str, Any]]
    summary: EvaluationSummary
    warnings: Sequence[str]
    probed: Sequence[Probed]
    """What probes asked, row by row."""


def measure(
    metrics: Sequence[Metric],
    models: Sequence[Contestant],
    measures: Sequence[Measure],
    bench: Bench,
    *,
    name: str,
    asked: Mapping[str, Any],
) -> Outcome:
    """Measure every model, compare the first with the others, add `measures`, and say it in plain words."""
    task, answers, seed = bench.task, bench.answers, bench.seed
    measured = analysis.scores(metrics, answers, seed)
    compared = analysis.comparisons(metrics, answers, models[0].name, seed)
    suffix = f"|rows:{task.digest[:12]}|asked:{digest_of(dict(asked))[:12]}"
    told = _facts(bench, metrics, models, measured, compared, name)
    return Outcome(
        metrics=EvaluationMetrics(models=_scores(measured, suffix), measures=_measures(measures, suffix)),
        comparisons=[*compared, *_probed(measures, models[0].name)],
        summary=_summary(task, models, told, asked, metrics),
        warnings=told.notes,
        probed=bench.kept,
    )


def _probed(measures: Sequence[Measure], subject: str) -> list[dict[str, Any]]:
    """The subject against every other model in every measure; Holm's correction goes over all of them."""
    others = [other for measure in measures for other in measure.against]
    pairs = zip(others, family(measures), strict=True)
    return [{"a": subject, "b": other, "family": "probes", **found.as_json()} for other, found in pairs]


def _scores(measured: Mapping[str, Mapping[str, Measured]], suffix: str) -> dict[str, dict[str, MetricScore]]:
    return {
        model: {
            kind: MetricScore.model_validate({**score.as_json(), "signature": score.signature + suffix})
            for kind, score in of_model.items()
        }
        for model, of_model in measured.items()
    }


def _measures(measures: Sequence[Measure], suffix: str) -> dict[str, dict[str, MeasureScore]]:
    found: dict[str, dict[str, MeasureScore]] = {}
    for measure in measures:
        shown = {**measure.as_json(), "signature": measure.signature + suffix}
        found.setdefault(measure.model, {})[measure.name] = MeasureScore.model_validate(shown)
    return found


def _summary(
    task: Task,
    models: Sequence[Contestant],
    told: facts.EvaluationFacts,
    asked: Mapping[str, Any],
    metrics: Sequence[Metric],
) -> EvaluationSummary:
    """The facts of the report, with how the rows were asked and the answer in plain words."""
    subject = models[0].name
    best = best_plain(told)
    against = [name for name in ("base", "against", best.name if best else "") if name and name != subject]
    headline = [told.compared(subject, other, told.main_metric) for other in dict.fromkeys(against)]
    found = {
        **told.model_dump(mode="json", exclude={"everything", "probed", "advice"}),
        "verdict_sentence": verdict_sentence(told),
        "subject": subject,
        "headline": [row.model_dump(mode="json") for row in headline if row is not None],
        "order": [model.name for model in models],
        "digests": {model.name: model.digest for model in models if model.digest},
        "labels": task.labels,
        "options": dict(task.options),
        "split": task.split,
        "rows_available": task.available,
        "rows_digest": task.digest,
        "asked": dict(asked),
        "measured": [metric.settings() for metric in metrics],
    }
    return EvaluationSummary.model_validate(found)


def _facts(
    bench: Bench,
    metrics: Sequence[Metric],
    models: Sequence[Contestant],
    measured: Mapping[str, Mapping[str, Measured]],
    compared: Sequence[Mapping[str, Any]],
    name: str,
) -> facts.EvaluationFacts:
    """Everything that the report shows of this evaluation."""
    task, answers = bench.task, bench.answers
    is_label = task.kind == "label"
    subject, rival = models[0], next((model for model in models[1:] if model.role == "base"), None)
    fixed, broken = analysis.flips(task, subject, rival) if is_label and rival else ([], [])
    columns = analysis.slicing(task.examples, attributes(bench.data))
    return facts.EvaluationFacts(
        name=name,
        task=task.kind,
        rows=len(task.examples),
        main_metric=metrics[0].kind,
        models=tuple(_model_facts(model, measured[model.name]) for model in models),
        comparisons=analysis.comparison_facts(compared),
        confusions=analysis.confusions(task, models) if is_label else (),
        classes=analysis.classes(task, models) if is_label else (),
        reliability=analysis.reliability(answers, measured) if is_label else (),
        slices=analysis.slices(
            columns, metrics[0], answers, bench.seed, subject=subject.name, rival=rival.name if rival else None
        ),
        fixed=analysis.row_facts(task, models, fixed[: analysis.SHOWN]),
        broken=analysis.row_facts(task, models, broken[: analysis.SHOWN]),
        samples=analysis.row_facts(task, models, analysis.spread(len(task.examples), SAMPLES)),
        notes=(*_notes(task, models), *bench.notes),
    )


def _model_facts(model: Contestant, measured: Mapping[str, Measured]) -> facts.ModelFacts:
    shown = {kind: analysis.fact(score) for kind, score in measured.items()}
    return facts.ModelFacts(name=model.name, title=model.title, role=model.role, metrics=shown)


def _notes(task: Task, models: Sequence[Contestant]) -> list[str]:
    """What a reader should know of how the answers came about."""
    notes = []
    if task.pairs:
        notes.append("Each row holds two answers, first or second by chance; asked is which of them people preferred.")
    notes.extend(
        f"{counted(count, 'pair was', 'pairs were')} left out: {why}." for why, count in sorted(task.left.items())
    )
    asked = len(last_turns(task))
    if asked < task.available:
        notes.append(f"{asked:,} of the {task.available:,} rows of {task.split} were asked.")
    if conversations([example.id for example in task.examples]):
        notes.append(
            f"{len(task.examples):,} turns of {asked:,} conversations: intervals and tests are computed over "
            "conversations."
        )
    for model in models:
        cut = sum(reply.finished is False for reply in model.replies)
        if cut:
            share = f"{cut:,} of {len(model.replies):,}"
            notes.append(f"{share} answers of {model.title} were cut at the limit of tokens (max_new_tokens).")
    if task.split == "train":
        notes.append("These rows were trained on: the scores say what was remembered, not what was learnt.")
    return notes


def attributes(data: Artifact) -> dict[str, dict[str, Any]]:
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
