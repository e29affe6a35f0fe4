"""Views of facts for the report's page: key figures, confused pairs, compact rows."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from luthier.artifacts.findings import FindingNumber
from luthier.core.messages import gettext_noop
from luthier.eval.report import formatting
from luthier.eval.report.charts.classification import get_heat_css_class
from luthier.eval.report.facts.fact import Fact
from luthier.eval.report.facts.models import ComparisonFact, ConfusionMatrix, EvaluationFacts, ModelFacts, RowFact
from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.facts.tuning import SequenceFact, TokenSpanFact, TuningFacts
from luthier.eval.report.formatting import classify_comparison, find_best_baseline, format_points, rows_per_hundred

MOST_METRICS = 8
MOST_FLIPS = 50
MOST_SAMPLES = 12
MOST_PAIRS = 20
MOST_TABLE = 400
MOST_CELLS = 15
"""A confusion with more labels is drawn as a heat map, not written as a table."""
LONG = 600
"""Characters of a row's text that the page shows."""
LONG_ANSWER = 300
BROWSER_BYTES = 900_000
"""What the browser of rows may add to the page."""


LONG_READ, LONG_TRAINED = 1_600, 6_000
"""Characters of a stretch of a row, only read or trained on, that the page shows."""
OPEN, CLOSE = "⟦", "⟧"
"""What stands around trained tokens, so that they are told apart without colour."""


class KeyFigure(NamedTuple):
    """A large number with what it is and what belongs to it."""

    number: str
    name: str
    note: str
    kind: str = ""


class ConfusionCell(NamedTuple):
    """One cell of a confusion table: the count, and how dark it is."""

    times: int
    kind: str


class ConfusedPair(NamedTuple):
    """Two labels that were confused."""

    reference: str
    answer: str
    times: int
    of: int


def shorten_token_spans(sequence: SequenceFact) -> list[TokenSpanFact]:
    """The stretches of a sequence, each long one without its middle."""
    return [stretch.model_copy(update={"text": _without_middle(stretch)}) for stretch in sequence.stretches]


def _without_middle(stretch: TokenSpanFact) -> str:
    most = LONG_TRAINED if stretch.trained else LONG_READ
    text = stretch.text
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} […{len(text) - most:,} characters…] {text[len(text) - most // 2 :]}"


def key_figures(facts: EvaluationFacts) -> list[KeyFigure]:
    """Return the headline numbers for the top of the report."""
    metric = facts.main_metric
    figures = [
        _score_figure(model, metric, "accent" if model.role == "tuned" else "")
        for model in [*facts.of_role("tuned")[:1], *_reference_models(facts)[:1], find_best_baseline(facts)]
        if model is not None and metric in model.metrics
    ]
    comparison = find_base_comparison(facts)
    if comparison is not None and comparison.fixed is not None and comparison.broken is not None:
        other = _reference_models(facts)[0].title
        note = gettext_noop(f"by the tuning, against {other}")
        name = gettext_noop("Rows fixed / broken")
        figures.append(KeyFigure(f"{comparison.fixed} / {comparison.broken}", name, note))
    return figures


def _reference_models(facts: EvaluationFacts) -> tuple[ModelFacts, ...]:
    """What the tuned model has to be better than: the base model, else the one that `compare_with` names."""
    return facts.of_role("base") or facts.of_role("other")


def find_base_comparison(facts: EvaluationFacts) -> ComparisonFact | None:
    """The comparison of the tuned with the base model, or with the one of `compare_with`, on the main metric; else
    any with counts of flips."""
    tuned, base = facts.of_role("tuned"), _reference_models(facts)
    if not tuned or not base:
        return None
    same = [each for each in facts.comparisons if (each.a, each.b) == (tuned[0].name, base[0].name)]
    same.sort(key=lambda each: (each.fixed is None, each.metric != facts.main_metric))
    return same[0] if same else None


def explain_difference(facts: EvaluationFacts) -> str:
    """Explain the main difference in plain words, and the smallest one that could have been detected."""
    comparison = next((each for each in facts.comparisons if each == find_base_comparison(facts)), None)
    if comparison is None:
        return ""
    words = []
    if gain_text := rows_per_hundred(comparison):
        other = _reference_models(facts)[0].title
        words.append(gettext_noop(f"Against {other} that is {gain_text}."))
    if comparison.detectable is not None:
        least = format_points(comparison.detectable, comparison.metric).partition(" of ")[0]
        rows = formatting.format_thousands(comparison.rows or facts.rows)
        words.append(
            gettext_noop(
                f"With {rows} rows, a difference of {least} would be noticed four times in five; the measured "
                "difference is larger."
                if abs(comparison.difference) > comparison.detectable
                else f"With {rows} rows, a difference of {least} would be noticed four times in five; the measured "
                "difference is smaller, so more rows are needed."
            )
        )
    return " ".join(words)


def list_run_metrics(facts: ReportFacts) -> list[str]:
    """List the metrics of several evaluations, those of the first one first."""
    return list(dict.fromkeys(metric for run in facts.runs for metric in run.scores))[:MOST_METRICS]


def describe_outcome(comparison: ComparisonFact) -> str:
    """The outcome of a comparison in a word or two."""
    return {
        "better": gettext_noop("better"),
        "worse": gettext_noop("worse"),
        "unclear": gettext_noop("cannot be told apart"),
    }[classify_comparison(comparison)]


def build_confusion_rows(facts: ConfusionMatrix) -> list[tuple[str, list[ConfusionCell], int]]:
    """The rows of a confusion table: label, cells, and how many rows bear the label."""
    table = []
    for label, counts in zip(facts.labels, facts.counts, strict=True):
        total = sum(counts)
        table.append(
            (
                label,
                [ConfusionCell(times, get_heat_css_class(times / total if total else 0)) for times in counts],
                total,
            )
        )
    return table


def list_confused_pairs(facts: ConfusionMatrix) -> list[ConfusedPair]:
    """The pairs of labels that were confused most often."""
    pairs = [
        ConfusedPair(label, facts.labels[column], times, sum(counts))
        for row, (label, counts) in enumerate(zip(facts.labels, facts.counts, strict=True))
        for column, times in enumerate(counts)
        if times and row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair.times, pair.reference, pair.answer))[:MOST_PAIRS]


def select_confusions(facts: EvaluationFacts) -> Sequence[ConfusionMatrix]:
    """All models' confusions when they are small, the tuned and the base model's when they are large."""
    large = any(len(each.labels) > MOST_CELLS for each in facts.confusions)
    return facts.confusions[:2] if large else facts.confusions


def encode_rows_base64(facts: EvaluationFacts, sharing: int = 1) -> str:
    """Every row as base64 of gzipped JSON, with texts cut until it fits; empty when there are none.

    `sharing` is how many evaluations share the room.
    """
    most = BROWSER_BYTES // sharing
    if not facts.everything:
        return ""
    for limit in (400, 200, 100, 50, 20):
        packed = _packed(facts, facts.everything, limit)
        if len(packed) <= most:
            return packed
    fitting = int(len(facts.everything) * most / len(packed) * 0.9)
    return _packed(facts, facts.everything[:fitting], 20)


def describe_trained_rows(facts: TuningFacts) -> str:
    """How many different rows were trained on, of how many, and why the others were not."""
    if facts.trained_rows is None:
        return ""
    of = (
        f" of {formatting.format_thousands(facts.training_rows)}"
        if facts.training_rows not in (None, facts.trained_rows)
        else ""
    )
    reasons = "; ".join(f"{formatting.format_thousands(rows)} {reason}" for reason, rows in facts.left_out.items())
    return f"{formatting.format_thousands(facts.trained_rows)}{of}" + (f" ({reasons})" if reasons else "")


def downsample_log(log: Sequence[Fact], most: int = 20) -> list[Fact]:
    """A log at even distances, with its first and last step."""
    if len(log) <= most:
        return list(log)
    return [log[round(at * (len(log) - 1) / (most - 1))] for at in range(most)]


def format_finding_number(number: FindingNumber) -> str:
    """A number of a finding as people read it: shares in per cent."""
    return _found(number.value, share=number.share)


def format_finding_interval(number: FindingNumber) -> str:
    """Its interval; nothing where it is no estimate."""
    low, high = number.ends
    return "" if low == high else f"{_found(low, share=number.share)} to {_found(high, share=number.share)}"


def format_finding_cell(cell: str | float | None) -> str:
    """A cell of a finding's table."""
    if cell is None or isinstance(cell, str):
        return cell or formatting.MISSING
    return (
        formatting.format_thousands(cell)
        if isinstance(cell, int)
        else formatting.format_number(cell, 4).rstrip("0").rstrip(".")
    )


def _found(value: float, *, share: bool) -> str:
    if share:
        return f"{formatting.format_number(100 * value, 1)} %"
    return formatting.format_thousands(value) if value == round(value) else formatting.format_number(value, 3)


def _score_figure(model: ModelFacts, metric: str, kind: str) -> KeyFigure:
    score = model.metrics[metric]
    note = (
        ""
        if score.low is None or score.high is None
        else formatting.format_score_interval(score, metric).partition(" ")[2]
    )
    shown = note.strip("()")
    return KeyFigure(
        formatting.format_number(score.value, formatting.count_decimals(metric)),
        formatting.capitalize_title(model.title),
        shown,
        kind,
    )


def _packed(facts: EvaluationFacts, rows: Sequence[RowFact], limit: int) -> str:
    models = [model.name for model in facts.models if any(model.name in row.answers for row in rows[:50])]
    value: dict[str, Any] = {
        "models": [formatting.capitalize_title(facts.title(name)) for name in models],
        "tuned": _place(models, facts.of_role("tuned")),
        "base": _place(models, facts.of_role("base")),
        "rows": [_packed_row(row, models, limit) for row in rows],
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _packed_row(row: RowFact, models: Sequence[str], limit: int) -> list[Any]:
    answers = [formatting.truncate_text(row.answers.get(name, ""), limit) for name in models]
    right = [None if (known := row.correct.get(name)) is None else int(known) for name in models]
    return [
        row.id,
        formatting.truncate_text(row.text, limit),
        formatting.truncate_text(row.reference, limit),
        answers,
        right,
    ]


def _place(models: Sequence[str], requested: Sequence[ModelFacts]) -> int:
    return models.index(requested[0].name) if requested and requested[0].name in models else -1


MODEL_EXPLANATION_TITLES = {
    "model_diff": "What tuning changed",
    "counterfactuals": "What flips a label",
    "surrogate": "Rules that stand for the model",
    "conformal": "Label sets",
}
"""The sections of steps that measure a whole model."""
_MEASURES = {
    "model_diff.kl": "mean divergence of an answer token’s distribution from the base’s, in nats",
    "model_diff.hidden": "relative distance of the last layer’s hidden states",
    "model_diff.weights": "relative distance of all weights that an adapter or training touches",
    "model_diff.effective_rank": "mean effective rank of the changes of matrices",
    "model_diff.intruders": "intruder dimensions a matrix, of the first 10",
    "model_diff.changed": "share of answers that changed",
    "model_diff.fixed": "share of rows that became right, less those that became wrong",
    "model_diff.words": "words by which answers became longer",
    "counterfactuals.flipped": "share of rows that a few edits flip",
    "counterfactuals.edits": "edits that it takes, of the rows that are flipped",
    "counterfactuals.share": "share of the text’s words that they touch",
    "surrogate.fidelity": "share of held-out rows for which a rule holds where the model says the same",
    "surrogate.coverage": "share of held-out rows for which a rule holds",
    "surrogate.overall": "share of all held-out rows where the tree says the same as the model",
    "surrogate.gain": "the same less that of always saying the model’s most frequent label",
    "conformal.coverage": "share of rows whose set holds the right label",
    "conformal.size": "labels in a set",
    "conformal.single": "share of rows with exactly one label",
    "conformal.single_accuracy": "accuracy where there is one label; the others are abstained from",
    "conformal.accuracy": "accuracy of the likeliest label over all rows",
    "conformal.worst_class": "coverage of the class where it is lowest",
}


def describe_measure(kind: str, name: str) -> str:
    """What a measure of a step is."""
    return _MEASURES[f"{kind}.{name}"]
