"""Findings of a learning curve: the curve, the target, classes and slices, and cleaning compared with adding rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.artifacts.findings import (
    FORETOLD,
    LEARNING_CURVE,
    MEASURED,
    SEVERITIES,
    Finding,
    FindingNumber,
    Findings,
    FindingTable,
    FlaggedRow,
    Severity,
)
from luthier.auto.curve.measure import CurveAnswers, MeasuredCurve, compare_answers
from luthier.auto.curve.plain import DoubtfulLabel, classify_cleaned, find_doubtful_labels
from luthier.core.errors import RecipeError, SourceLocation
from luthier.metrics.learning_curve import FARTHEST, ForecastNumber
from luthier.metrics.metric import Metric

if TYPE_CHECKING:
    from luthier.auto.curve.subject import CurveSubject
    from luthier.auto.steps.curve import Curve
    from luthier.chat.messages import Example
    from luthier.core.expressions import ThresholdExpression

NUMBERS: Mapping[str, str] = {
    "curve.value": "the metric with all training rows",
    "curve.doubled": "the metric expected with twice as many training rows",
    "curve.gain": "by how much twice as many training rows should better the metric",
    "curve.batch_gain": "by how much the next batch of rows should better the metric",
}
"""Numbers of every curve."""
TARGET_NUMBERS: Mapping[str, str] = {
    "curve.rows_to_target": "training rows until the target is reached",
    "curve.target_chance": "chance that twice as many training rows reach the target",
}
"""Further numbers of a curve with a target."""
FEWEST_OF_SLICE = 10
"""Measured rows below which a class or slice has no curve."""
MOST_SLICES = 100


def parse_target(text: str, metric: Metric | None) -> ThresholdExpression:
    """Read what is wanted; `ValueError` where it is no bound of the metric from its worse side."""
    from luthier.core.component import components_by_kind
    from luthier.eval.gate_vocabulary import parse_rule

    rule = parse_rule(text)
    known = components_by_kind(Metric)
    if rule.name not in known or rule.reference is not None:
        raise ValueError(f"a target is a metric with a number, such as `accuracy >= 0.9`; got {text!r}")
    if metric is not None and metric.kind != rule.name:
        raise ValueError(f"the target is about {rule.name}, and {metric.kind} is measured; leave `metric` out")
    if rule.upward != (known[rule.name].better == "higher"):
        sign = ">=" if known[rule.name].better == "higher" else "<="
        raise ValueError(f"of {rule.name}, {known[rule.name].better} is better; write {rule.name} {sign} a number")
    return rule


class _Found(NamedTuple):
    finding: Finding
    marks: Sequence[FlaggedRow] = ()


def list_curve_findings(step: Curve, subject: CurveSubject, seed: int) -> tuple[Findings, list[FlaggedRow]]:
    """All findings, the worst first, with the rows that the one on cleaning is about."""
    skipped = dict(subject.notes)
    founds: list[_Found] = []
    if subject.answers is None:
        founds.append(_build_missing_curve(step, subject))
    else:
        curve = subject.answers.curve(seed=seed)
        if not curve.is_drawn:
            raise RecipeError(
                f"the sizes come to {len(curve.counts)} different numbers of rows, and three are needed",
                where=SourceLocation(field="sizes"),
                hint="give sizes farther apart",
            )
        founds.append(_Found(_build_overall_finding(step, subject, curve)))
        if step.target is not None:
            founds.append(_Found(_target(step, subject, curve)))
        if step.by is not None:
            founds.append(_Found(_parts(step, subject, subject.answers, seed)))
        if subject.texts is not None:
            founds.append(_clean(step, subject, curve, seed))
    founds.sort(key=lambda found: -SEVERITIES.index(found.finding.severity))
    findings = Findings(
        rows=subject.rows,
        looked_at=subject.training + len(subject.held_out),
        findings=tuple(found.finding for found in founds),
        skipped=skipped,
    )
    return findings, [mark for found in founds for mark in found.marks]


def _build_missing_curve(step: Curve, subject: CurveSubject) -> _Found:
    """No curve: every number has the widest interval, so that no gate passes or fails by it."""
    low, high = subject.metric.bounds
    known = {**NUMBERS, **(TARGET_NUMBERS if step.target else {})}
    numbers = {name: FindingNumber(value=0, low=low, high=high, about=about) for name, about in known.items()}
    if step.target:
        numbers["curve.rows_to_target"] = _rows_number(
            ForecastNumber(math.inf, 0.0, math.inf), max(subject.training, 1), "curve.rows_to_target"
        )
        numbers["curve.target_chance"] = FindingNumber(
            value=0, low=0, high=1, about=TARGET_NUMBERS["curve.target_chance"], share=True
        )
    sentence = f"No curve is drawn: {subject.why}."
    return _Found(Finding(name="curve", severity="info", title="Rows", sentence=sentence, numbers=numbers))


def _build_overall_finding(step: Curve, subject: CurveSubject, curve: MeasuredCurve) -> Finding:
    last = curve.counts[-1]
    value, doubled, gain = curve.measured(len(curve.counts) - 1), curve.expected(2 * last), curve.gain(2 * last)
    batch = curve.gain(last + step.batch)
    whole = curve.metric.whole()
    severity: Severity = "warning" if gain.low >= step.warning * whole else "info"
    name = curve.metric.kind
    hours = _hours(subject, last)
    numbers = {
        "curve.value": _build_number(value, curve, NUMBERS["curve.value"]),
        "curve.doubled": _build_number(doubled, curve, NUMBERS["curve.doubled"]),
        "curve.gain": _build_number(gain, curve, NUMBERS["curve.gain"]),
        "curve.batch_gain": _build_number(batch, curve, NUMBERS["curve.batch_gain"]),
    }
    if hours is not None:
        numbers["curve.hours_to_double"] = FindingNumber(value=hours, about="hours to label as many rows again")
    effort = "" if hours is None else f" Labelling them takes about {hours:,.1f} hours."
    return Finding(
        name="curve",
        severity=severity,
        title="More rows would help" if severity != "info" else "Rows",
        sentence=f"With {last:,} training rows the {subject.title} has {name} {_value(value, curve)}; twice as many "
        f"should bring {_value(doubled, curve)}, {_gain(gain, curve)}. The next {step.batch:,} rows should bring "
        f"{_gain(batch, curve)}.{effort}",
        numbers=numbers,
        hint="Gather or label more rows before you tune longer or larger." if severity != "info" else "",
        tables=(_table(curve), _build_law_table(curve)),
    )


def _target(step: Curve, subject: CurveSubject, curve: MeasuredCurve) -> Finding:
    assert step.target is not None
    rule = parse_target(step.target, None)
    last = curve.counts[-1]
    rows, chance = curve.rows_until(rule.margin), curve.chance_within(rule.margin, 2 * last)
    numbers = {
        "curve.rows_to_target": _rows_number(rows, last, "curve.rows_to_target"),
        "curve.target_chance": FindingNumber(
            value=round(chance, 4), about=TARGET_NUMBERS["curve.target_chance"], rows=curve.rows, share=True
        ),
    }
    reached = rule.holds(curve.measured(len(curve.counts) - 1).value, rule.margin)
    if reached:
        sentence = f"{step.target} is reached with {last:,} rows."
    elif math.isinf(rows.value):
        sentence = (
            f"{step.target} is not reachable by these laws with up to {FARTHEST * last:,} rows: clean the labels, or "
            "use another model."
        )
        if math.isfinite(rows.low):
            sentence = f"{sentence} At the favourable end of the interval {_count(rows.low)} rows reach it."
    else:
        sentence = f"{step.target} should be reached with {_count(rows.value)} rows (95 % interval {_span(rows)})."
        more = rows.value - last
        if (hours := _hours(subject, more)) is not None:
            low, high = max(rows.low - last, 0.0), rows.high - last
            numbers["curve.hours_to_target"] = FindingNumber(
                value=hours,
                low=_hours(subject, low),
                high=_hours(subject, min(high, FARTHEST * last)),
                about="hours of labelling until the target is reached",
            )
            sentence += f" Labelling the {_count(more)} further rows takes about {hours:,.1f} hours."
    severity: Severity = "info" if reached or chance >= 0.5 else "warning"
    return Finding(
        name="curve.target",
        severity=severity,
        title="Rows until the target" if severity == "info" else "The target is far",
        sentence=sentence,
        numbers=numbers,
        hint=""
        if severity == "info"
        else "Gather the rows, clean the labels, tune another model, or lower the target.",
    )


def _parts(step: Curve, subject: CurveSubject, answers: CurveAnswers, seed: int) -> Finding:
    """The curve of each class or of the rows of each value of a column."""
    lines, numbers = [], {}
    few = 0
    for name, curve in _part_curves(step, subject, answers, seed):
        if curve is None:
            few += 1
            continue
        gain = curve.gain(2 * curve.counts[-1])
        value = curve.measured(len(curve.counts) - 1)
        doubled = curve.expected(2 * curve.counts[-1]).value
        lines.append((name, curve, value, doubled, gain))
        about = f"by how much twice as many training rows should better {curve.metric.kind} of {name}"
        numbers[f"curve.gain.{name}"] = _build_number(gain, curve, about)
    lines.sort(key=lambda line: (-line[4].value, line[0]))
    what = "class" if step.by == "class" else f"value of {step.by}"
    sentence = f"No {what} has {FEWEST_OF_SLICE} measured rows."
    if lines:
        name, curve, _, _, gain = lines[0]
        sentence = f"Of twice as many rows, {name} gains most: {_gain(gain, curve)} in {curve.metric.kind}."
    if few and lines:
        sentence += f" {few} with fewer than {FEWEST_OF_SLICE} measured rows {'is' if few == 1 else 'are'} left out."
    table = FindingTable(
        title=f"Gain from twice the rows, by {step.by}",
        columns=(what, "measured rows", "now", "with twice the rows", "gain", "low", "high"),
        rows=tuple(
            (name, curve.rows, *(round(entry, 4) for entry in (value.value, doubled, *gain)))
            for name, curve, value, doubled, gain in lines
        ),
    )
    return Finding(
        name="curve.by", severity="info", title=f"Gain by {step.by}", sentence=sentence, numbers=numbers,
        tables=(table,) if lines else (),
    )  # fmt: skip


def _part_curves(
    step: Curve, subject: CurveSubject, answers: CurveAnswers, seed: int
) -> Iterator[tuple[str, MeasuredCurve | None]]:
    """Each class or value with its curve, by name; None for one with too few measured rows."""
    from luthier.metrics.kinds.binary_label import F1

    indices: dict[str, list[int]] = {}
    for at, example in enumerate(subject.held_out):
        value = example.label if step.by == "class" else _column(example, step.by or "")
        if value not in (None, ""):
            indices.setdefault(str(value), []).append(at)
    if not indices or (step.by == "class" and subject.task != "label"):
        what = f"the measured rows have no {step.by!r}"
        raise RecipeError(
            what, where=SourceLocation(field="by"), hint="name `class` for data with classes, or a column"
        )
    if len(indices) > MOST_SLICES and step.by != "class":
        what = f"{step.by!r} has {len(indices):,} different values, and {MOST_SLICES} are the most"
        raise RecipeError(what, where=SourceLocation(field="by"), hint="name a column with few values")
    for name, rows in sorted(indices.items()):
        if len(rows) < FEWEST_OF_SLICE:
            yield name, None
        elif step.by == "class":
            yield name, answers.of_metric(F1(label=name)).curve(seed=seed)
        else:
            yield name, answers.curve(rows, seed=seed)


def _column(example: Example, name: str) -> object:
    return example.meta.get(name.removeprefix("meta."))


def _clean(step: Curve, subject: CurveSubject, curve: MeasuredCurve, seed: int) -> _Found:
    """Compare the gain of correcting the worst labels on the measured rows with that of more rows."""
    assert subject.texts is not None
    assert subject.answers is not None
    learned, held_out = subject.texts
    doubtful = find_doubtful_labels(learned, seed)
    worst = doubtful[: step.clean]
    added = curve.gain(curve.counts[-1] + step.add)
    cleaned = removed = ForecastNumber(0.0, 0.0, 0.0)
    if worst:
        corrected, predictions = classify_cleaned(learned, held_out, worst)
        cleaned = compare_answers(curve.metric, subject.answers.predictions, corrected, seed=seed)
        removed = compare_answers(curve.metric, subject.answers.predictions, predictions, seed=seed)
    numbers = {
        "curve.doubtful": FindingNumber(
            value=round(len(doubtful) / len(learned), 6), rows=len(learned), share=True,
            about="share of training rows whose label is likely wrong",
        ),
        "curve.clean_gain": _build_number(cleaned, curve, "by how much correcting doubtful labels betters the metric"),
        "curve.add_gain": _build_number(added, curve, f"by how much {step.add:,} more rows should better the metric"),
    }  # fmt: skip
    better = "Clean" if cleaned.value > added.value else "Add"
    if not worst:
        sentence = f"No label of the {len(learned):,} training rows looks wrong, so there is nothing to clean;"
    else:
        sentence = f"Correcting the {len(worst):,} most doubtful labels betters {curve.metric.kind} by"
        sentence += f" {_gain(cleaned, curve)};"
    apart = cleaned.low > added.high or added.low > cleaned.high
    sentence += f" {step.add:,} more rows should bring {_gain(added, curve)}."
    if worst:
        sentence += f" {better} first{'' if apart else ', though the intervals overlap'}."
    hours = [_hours(subject, len(worst)), _hours(subject, step.add)]
    if worst and hours[0] is not None and hours[1] is not None:
        sentence += f" That is {hours[0]:,.1f} hours of work beside {hours[1]:,.1f}."
    table = FindingTable(
        title="Cleaning and adding",
        columns=("what", "rows", "gain", "low", "high"),
        rows=(
            ("correct the most doubtful labels", len(worst), *(round(entry, 4) for entry in cleaned)),
            ("leave these rows out", len(worst), *(round(entry, 4) for entry in removed)),
            ("add rows", step.add, *(round(entry, 4) for entry in added)),
        ),
    )
    finding = Finding(
        name="curve.clean", severity="info", title="Clean or add", sentence=sentence, rows=len(worst), numbers=numbers,
        tables=(table,),
    )  # fmt: skip
    return _Found(finding, [_mark(subject, doubtful_label) for doubtful_label in worst])


def _mark(subject: CurveSubject, one: DoubtfulLabel) -> FlaggedRow:
    return FlaggedRow("curve.clean", subject.ids[one.row], "train", one.score, f"rather {one.rather!r}")


def _table(curve: MeasuredCurve) -> FindingTable:
    """Return measured and predicted sizes, for the report's chart."""
    rows: list[tuple[int, str, float, float, float]] = []
    for at, count in enumerate(curve.counts):
        rows.append((count, MEASURED, *(round(entry, 4) for entry in curve.measured(at))))  # type: ignore[arg-type]  # three
    for times in (1.5, 2, 3, 4):
        count = round(times * curve.counts[-1])
        rows.append((count, FORETOLD, *(round(entry, 4) for entry in curve.expected(count))))  # type: ignore[arg-type]  # three
    return FindingTable(
        title="Learning curve", columns=(*LEARNING_CURVE, curve.metric.kind, "low", "high"), rows=tuple(rows)
    )


def _build_law_table(curve: MeasuredCurve) -> FindingTable:
    fit = curve.forecast.fit
    weights = {law.law.name: round(float(weight), 3) for law, weight in zip(fit.laws, fit.weights[:, 0], strict=True)}
    rows = tuple(sorted(weights.items(), key=lambda row: -row[1]))
    return FindingTable(title="Laws and how much each counts", columns=("law", "weight"), rows=rows)


def _build_number(number: ForecastNumber, curve: MeasuredCurve, about: str) -> FindingNumber:
    value, low, high = (round(entry, 5) for entry in number)
    share = curve.metric.bounds == (0.0, 1.0)
    return FindingNumber(value=value, low=low, high=high, rows=curve.rows, about=about, share=share)


def _rows_number(rows: ForecastNumber, last: int, name: str) -> FindingNumber:
    most = float(FARTHEST * last)
    value, low, high = (float(round(min(row, most))) for row in rows)
    about = f"{TARGET_NUMBERS[name]}; {most:,.0f} stands for never"
    return FindingNumber(value=value, low=low, high=high, rows=last, about=about)


def _hours(subject: CurveSubject, rows: float) -> float | None:
    return None if subject.seconds_per_label is None else round(max(rows, 0.0) * subject.seconds_per_label / 3600, 2)


def _value(number: ForecastNumber, curve: MeasuredCurve) -> str:
    return f"{number.value:.3f}" if curve.metric.whole() == 1 else f"{number.value:.1f}"


def _gain(gain: ForecastNumber, curve: MeasuredCurve) -> str:
    """A gain in points: hundredths of a metric that is written from 0 to 1."""
    value, low, high = (100 * entry / curve.metric.whole() for entry in gain)
    return f"{value:.1f} points (95 % interval {low:.1f} to {high:.1f})"


def _count(rows: float) -> str:
    """A number of rows with two or three figures, since no more is known."""
    digits = max(int(math.log10(max(rows, 1))) - 1, 0)
    return f"{round(rows / 10**digits) * 10**digits:,}"


def _span(rows: ForecastNumber) -> str:
    return f"{_count(rows.low)} to {'never' if math.isinf(rows.high) else _count(rows.high)}"
