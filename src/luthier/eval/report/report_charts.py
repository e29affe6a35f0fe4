"""The pictures of one report: which lines each shows, and what is said of it to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.artifacts.findings import LEARNING_CURVE, MEASURED, Finding
from luthier.artifacts.model_diff import ModelDiff
from luthier.eval.report import formatting, search_charts
from luthier.eval.report.charts.bars import Bar, FlowBranch, draw_bar_chart, draw_flow_chart
from luthier.eval.report.charts.classification import draw_confusion_heatmap, draw_reliability_diagram
from luthier.eval.report.charts.curves import CurvePoint, draw_learning_curve, draw_training_curves
from luthier.eval.report.charts.forest import ForestFrame, ForestRow, Mark, draw_forest_plot
from luthier.eval.report.facts.data import DataFacts
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.models import (
    LOWER_IS_BETTER,
    ComparisonFact,
    ConfusionMatrix,
    EvaluationFacts,
    ModelFacts,
    ReliabilityFacts,
    SliceFact,
)
from luthier.eval.report.facts.report import CostFact
from luthier.eval.report.facts.search import SearchFacts
from luthier.eval.report.facts.tuning import TuningFacts
from luthier.eval.report.formatting import classify_comparison

WIDE, NARROW = 800, 372
MOST_LINES = 25
"""More labels or slice values than this are left to the table."""
MOST_METRICS = 8


class ReportCharts:
    """Draws the pictures of one page; each call gives the next unique name."""

    def __init__(self) -> None:
        self._drawn = 0

    def metrics(self, facts: EvaluationFacts) -> list[tuple[str, str]]:
        """A small picture for each metric: every model's value with its interval, by metric name."""
        return [(metric, self._small(_metric_picture(facts, metric))) for metric in order_metrics(facts)[:MOST_METRICS]]

    def measures(self, facts: EvaluationFacts) -> list[tuple[str, str]]:
        """A small picture for each measure of a probe."""
        names = dict.fromkeys(name for model in facts.models for name in model.measures)
        return [(name, self._small(_measure_picture(facts, name))) for name in names]

    def differences(self, facts: EvaluationFacts) -> list[str]:
        """Differences with their intervals; metrics of different scale or direction stand in pictures of their own."""
        return self._differences(facts, select_model_comparisons(facts))

    def probed(self, facts: EvaluationFacts) -> list[str]:
        """The same of what tasks and probes measured, beside the model that the tuned one began with."""
        return self._differences(facts, select_probe_comparisons(facts)[:MOST_LINES])

    def _differences(self, facts: EvaluationFacts, shown: Sequence[ComparisonFact]) -> list[str]:
        groups: dict[tuple[bool, bool, bool], list[ComparisonFact]] = {}
        for comparison in shown:
            groups.setdefault(_scale_of(comparison), []).append(comparison)
        return [self._pair(_difference_picture(facts, group)) for group in groups.values()]

    def classes(self, facts: EvaluationFacts) -> str:
        """F1 of each label, weakest first: the tuned model's with its interval, the base's beside it."""
        lines = _class_lines(facts)[:MOST_LINES]
        weakest, last = lines[0], lines[-1]
        desc = f"{weakest.label} is weakest ({weakest.value_text}); {last.label} is the last shown ({last.value_text})."
        frame = ForestFrame("F1 by label, weakest first", desc, span=(0, 1), under="F1")
        return self._pair(lambda width, name: draw_forest_plot(lines, frame, width=width, name=name))

    def slices(self, facts: EvaluationFacts) -> list[tuple[str, str]]:
        """For each column, the metric on each of its values."""
        names = list(dict.fromkeys(part.name for part in facts.slices))
        found = []
        for column in names:
            lines = _slice_lines(facts, [part for part in facts.slices if part.name == column])[:MOST_LINES]
            summary = "; ".join(f"{line.label} {line.value_text}" for line in lines[:6])
            frame = ForestFrame(f"Result by {column}", summary, span=_slice_span(facts), under="")
            found.append((column, self._pair(_forest(lines, frame))))
        return found

    def reliability(self, facts: EvaluationFacts) -> list[tuple[ReliabilityFacts, str]]:
        """A reliability diagram for each model that states probabilities."""
        return [(each, self._small(_reliability_picture(facts, each))) for each in facts.reliability]

    def heat_map(self, facts: ConfusionMatrix, title: str) -> str:
        """A confusion with many labels."""
        right = sum(facts.counts[at][at] for at in range(len(facts.labels)))
        total = sum(map(sum, facts.counts))
        desc = f"{right} of {total} answers stand on the diagonal, which means right. The table lists the others."
        return self._small(
            lambda width, name: draw_confusion_heatmap(facts, name=name, title=f"Confusion, {title}", desc=desc)
        )

    def flow(self, facts: DataFacts) -> str:
        """Where every row went."""
        branches = build_data_flow_branches(facts)
        summary = ", ".join(f"{branch.label}: {branch.rows}" for branch in branches)
        desc = f"Of {facts.rows_in} rows in: {summary}."
        return self._pair(lambda width, name: draw_flow_chart(branches, width=width, name=name, desc=desc))

    def labels(self, facts: DataFacts) -> str:
        """How many rows bear each label."""
        rows = [
            Bar(
                each.label,
                tuple(each.rows.get(split, 0) for split in facts.splits),
                " + ".join(formatting.format_thousands(each.rows.get(split, 0)) for split in facts.splits),
            )
            for each in sorted(facts.labels, key=lambda each: (-sum(each.rows.values()), each.label))[:MOST_LINES]
        ]
        desc = f"{len(facts.labels)} labels; the most frequent is {rows[0].label} ({rows[0].value_text})."
        return self._pair(
            lambda width, name: draw_bar_chart(rows, width=width, name=name, title="Rows by label and split", desc=desc)
        )

    def curve(self, facts: TuningFacts) -> str:
        """The loss of each step."""
        losses = [point.loss for point in facts.log if point.loss is not None]
        fell = f"from {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "not logged"
        held = [point.held_out_loss for point in facts.log if point.held_out_loss is not None]
        held_out_text = f" The loss on held-out rows went from {held[0]:.3f} to {held[-1]:.3f}." if held else ""
        desc = f"The training loss over {len(facts.log)} logged steps went {fell}.{held_out_text}"
        return self._pair(lambda width, name: draw_training_curves(facts.log, width=width, name=name, desc=desc))

    def layers(self, diff: ModelDiff) -> str:
        """How far the hidden states of each layer moved."""
        rows = [
            Bar(str(layer.layer), (round(1000 * layer.distance.value),), f"{100 * layer.distance.value:.1f} %")
            for layer in diff.layers
        ]
        most = max(diff.layers, key=lambda layer: layer.distance.value)
        desc = f"{len(rows)} layers; layer {most.layer} moved the most ({100 * most.distance.value:.1f} %)."
        return self._pair(
            lambda width, name: draw_bar_chart(rows, width=width, name=name, title="Drift by layer", desc=desc)
        )

    def search_rungs(self, facts: SearchFacts) -> str:
        """How far each trial of a search came."""
        return self._pair(search_charts.rung_picture(facts))

    def search_differences(self, facts: SearchFacts) -> str:
        """The finalists of a search minus the settings that it began with."""
        return self._pair(search_charts.difference_picture(facts))

    def search_fronts(self, facts: SearchFacts) -> list[str]:
        """The finalists of a search by two aims each."""
        return [self._pair(draw) for draw in search_charts.front_pictures(facts)]

    def search_importance(self, facts: SearchFacts) -> str:
        """How much each setting of a search matters."""
        return self._pair(search_charts.importance_picture(facts))

    def search_spent(self, facts: SearchFacts) -> str:
        """What a search spent."""
        return self._pair(search_charts.spent_picture(facts))

    def learning(self, finding: Finding) -> str:
        """The metric by training rows, where a finding has such a table; else nothing."""
        table = next(
            (finding_table for finding_table in finding.tables if finding_table.columns[:2] == LEARNING_CURVE), None
        )
        if table is None:
            return ""
        numbers = [[float(cell or 0) for cell in (row[0], *row[2:])] for row in table.rows]
        points = [
            CurvePoint(rows, value, low, high, row[1] == MEASURED)
            for (rows, value, low, high), row in zip(numbers, table.rows, strict=True)
        ]
        metric = table.columns[2]
        desc = "; ".join(f"{row[0]:,} rows, {row[1]}: {metric} {row[2]}" for row in table.rows)
        return self._pair(lambda width, name: draw_learning_curve(points, metric, width=width, name=name, desc=desc))

    def costs(self, costs: Sequence[CostFact]) -> str:
        """Predicted and measured seconds of each step."""
        lines = [
            ForestRow(cost.step, _cost_said(cost), cost.seconds, reference_value=cost.predicted_seconds, mark="tuned")
            for cost in costs
            if cost.seconds is not None or cost.predicted_seconds is not None
        ]
        summary = "; ".join(f"{line.label}: {line.value_text}" for line in lines)
        frame = ForestFrame("Predicted and measured time of each step", summary, log_seconds=True)
        return self._pair(_forest(lines, frame)) if lines else ""

    def _name(self) -> str:
        self._drawn += 1
        return f"chart{self._drawn}"

    def _small(self, draw: Callable[[int, str], str]) -> str:
        return draw(NARROW, self._name())

    def _pair(self, draw: Callable[[int, str], str]) -> str:
        """The picture for a wide page and for a phone; the page shows one of them."""
        wide, narrow = draw(WIDE, self._name()), draw(NARROW, self._name())
        return f'<div class="for-wide">{wide}</div><div class="for-narrow">{narrow}</div>'


def order_metrics(facts: EvaluationFacts) -> list[str]:
    """All metrics of an evaluation, the main one first, the others as they were measured."""
    names = dict.fromkeys(name for model in facts.models for name in model.metrics)
    return sorted(names, key=lambda name: name != facts.main_metric)


def select_model_comparisons(facts: EvaluationFacts) -> list[ComparisonFact]:
    """Comparisons of tuned models (of all, when none is tuned), the main metric's first."""
    tuned = {model.name for model in facts.of_role("tuned")}
    own = [each for each in facts.comparisons if each.a in tuned] or list(facts.comparisons)
    return sorted(own, key=lambda each: each.metric != facts.main_metric)


def select_probe_comparisons(facts: EvaluationFacts) -> list[ComparisonFact]:
    """Comparisons in tasks and probes with base models; with all, where there is none."""
    bases = {model.name for model in facts.of_role("base")}
    return [each for each in facts.probed if each.b in bases] or list(facts.probed)


def build_data_flow_branches(facts: DataFacts) -> list[FlowBranch]:
    """Build the branches of the data flow chart: splits first, then drop reasons, largest first."""
    names = {"train": "for training", "test": "held out", "validation": "held out for tuning"}
    flow_branches = [
        FlowBranch(names.get(split, split), rows, "tuned" if split == "train" else "held")
        for split, rows in facts.splits.items()
    ]
    dropped = sorted(facts.dropped.items(), key=lambda item: (-item[1], item[0]))
    return flow_branches + [FlowBranch(f"dropped: {reason}", rows, "against") for reason, rows in dropped]


def _forest(lines: Sequence[ForestRow], frame: ForestFrame) -> Callable[[int, str], str]:
    return lambda width, name: draw_forest_plot(lines, frame, width=width, name=name)


def _metric_picture(facts: EvaluationFacts, metric: str) -> Callable[[int, str], str]:
    lines = [_score_line(model, model.metrics[metric], metric) for model in facts.models if metric in model.metrics]
    summary = "; ".join(f"{line.label} {line.value_text}" for line in lines)
    better = " (lower is better)" if metric in LOWER_IS_BETTER else ""
    frame = ForestFrame(f"{formatting.get_metric_title(metric)}{better}", f"{summary}.", span=_span(lines, metric))
    return _forest(lines, frame)


def _measure_picture(facts: EvaluationFacts, measure: str) -> Callable[[int, str], str]:
    lines = [_score_line(each, each.measures[measure].score, "") for each in facts.models if measure in each.measures]
    summary = "; ".join(f"{line.label} {line.value_text}" for line in lines)
    return _forest(lines, ForestFrame(measure, f"{summary}.", span=_span(lines, "")))


def _score_line(model: ModelFacts, score: ScoreFact, metric: str) -> ForestRow:
    mark: Mark = {"tuned": "tuned", "base": "base"}.get(model.role, "plain")  # type: ignore[assignment]  # keys are literals
    return ForestRow(
        formatting.capitalize_title(model.title),
        formatting.format_score_interval(score, metric),
        score.value,
        score.low,
        score.high,
        mark,
    )


def _span(lines: Sequence[ForestRow], metric: str) -> tuple[float, float] | None:
    """From nothing to all on a scale to 1, unless all values are small; from zero on others."""
    ends = [end for line in lines for end in (line.value, line.low, line.high) if end is not None]
    if not ends or min(ends) < 0:
        return None
    top = max(ends)
    to_one = metric not in formatting.HUNDRED and metric not in formatting.OPEN
    return (0, 1) if to_one and top > 0.4 else (0, top * 1.12 or 1)


def _scale_of(each: ComparisonFact) -> tuple[bool, bool, bool]:
    """To 100, without end, lower is better: a task's scores are told by what stands behind its name."""
    last = each.metric.rpartition(".")[2].removeprefix("word_").removeprefix("byte_")
    return each.metric in formatting.HUNDRED, last in formatting.OPEN, each.lower


def _difference_picture(facts: EvaluationFacts, group: Sequence[ComparisonFact]) -> Callable[[int, str], str]:
    lines: list[ForestRow] = []
    for metric in dict.fromkeys(each.metric for each in group):
        lines.append(ForestRow(formatting.get_metric_title(metric), "", None, mark="head"))
        lines += [_difference_line(facts, each) for each in group if each.metric == metric]
    lower = group[0].lower
    under = "← better · worse →" if lower else "← worse · better →"
    summary = "; ".join(
        f"{formatting.get_metric_title(each.metric)}, {_minus(facts, each, 'minus')}: {_difference_said(each)}"
        for each in group
    )
    frame = ForestFrame("Differences on the same rows", f"{summary}.", zero=True, under=under)
    return _forest(lines, frame)


def _difference_line(facts: EvaluationFacts, each: ComparisonFact) -> ForestRow:
    marks: dict[str, Mark] = {"better": "tuned", "worse": "against", "unclear": "unclear"}
    several = len(facts.of_role("tuned")) > 1
    label = _minus(facts, each) if several else f"against {facts.title(each.b)}"
    return ForestRow(
        label,
        _difference_said(each),
        each.difference,
        each.low,
        each.high,
        marks[classify_comparison(each)],
        band=each.detectable,
    )


def _minus(facts: EvaluationFacts, each: ComparisonFact, sign: str = "−") -> str:
    return (
        f"{formatting.capitalize_title(facts.title(each.a))} {sign} {formatting.capitalize_title(facts.title(each.b))}"
    )


def _difference_said(each: ComparisonFact) -> str:
    return formatting.format_difference(each.difference, each.low, each.high, each.metric)


def _class_lines(facts: EvaluationFacts) -> list[ForestRow]:
    tuned, base = _first(facts, "tuned"), _first(facts, "base")
    shown = tuned or base or (facts.classes[0].model if facts.classes else "")
    base_scores = {each.label: each.f1.value for each in facts.classes if each.model == base and base != shown}
    class_scores = sorted(
        (each for each in facts.classes if each.model == shown), key=lambda each: each.f1.value or 0.0
    )
    return [
        ForestRow(
            each.label,
            formatting.format_score_interval(each.f1),
            each.f1.value,
            each.f1.low,
            each.f1.high,
            "tuned",
            base_scores.get(each.label),
        )
        for each in class_scores
    ]


def _first(facts: EvaluationFacts, role: str) -> str:
    return next((model.name for model in facts.models if model.role == role), "")


def _slice_lines(facts: EvaluationFacts, parts: Sequence[SliceFact]) -> list[ForestRow]:
    tuned, base = _first(facts, "tuned"), _first(facts, "base")
    base_scores = {part.value: part.score.value for part in parts if part.model == base}
    slice_facts = [part for part in parts if part.model == tuned]
    if not slice_facts:
        slice_facts, base_scores = [part for part in parts if part.model == parts[0].model], {}
    return [
        ForestRow(
            f"{part.value} ({formatting.format_thousands(part.rows)} rows)",
            formatting.format_score_interval(part.score, part.metric),
            part.score.value,
            part.score.low,
            part.score.high,
            "tuned",
            base_scores.get(part.value),
        )
        for part in sorted(slice_facts, key=lambda part: (-part.rows, part.value))
    ]


def _slice_span(facts: EvaluationFacts) -> tuple[float, float] | None:
    metrics = {part.metric for part in facts.slices}
    return None if metrics & (formatting.HUNDRED | formatting.OPEN | {"mcc"}) else (0, 1)


def _reliability_picture(facts: EvaluationFacts, each: ReliabilityFacts) -> Callable[[int, str], str]:
    title = facts.title(each.model)
    parts = [
        f"said {part.confidence:.2f}, right {part.accuracy.value:.2f} of {part.rows} rows"
        for part in each.bins
        if part.accuracy.value is not None
    ]
    return lambda width, name: draw_reliability_diagram(
        each, name=name, title=f"Reliability, {title}", desc="; ".join(parts)
    )


def _cost_said(cost: CostFact) -> str:
    if cost.predicted_seconds is None:
        return formatting.format_duration_words(cost.seconds)
    if cost.seconds is None:
        return f"{formatting.format_duration_words(cost.predicted_seconds)} predicted"
    return (
        f"{formatting.format_duration_words(cost.seconds)} ({formatting.format_duration_words(cost.predicted_seconds)})"
    )
