"""The pictures of a search and the words beside them: rungs, front, importance, what was spent, differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from luthier.artifacts.search import BRANCH, AimRecord, FinalistRecord
from luthier.core.hashing import canonical_json
from luthier.eval.report import formatting
from luthier.eval.report.charts.bars import Bar, draw_bar_chart
from luthier.eval.report.charts.forest import ForestFrame, ForestRow, Mark, draw_forest_plot
from luthier.eval.report.charts.search import (
    FrontFrame,
    FrontPoint,
    RungColumn,
    TrialLine,
    draw_front_chart,
    draw_rung_chart,
)
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.facts.search import SearchFacts

Draw = Callable[[int, str], str]
MOST_LINES = 200
"""Trials that are drawn: the finalists and those that came furthest."""
MOST_ROWS = 500
"""Rows of the table of trials that are shown."""
MOST_SETTINGS = 25
SCALED = 10_000
"""Bars have whole lengths: shares and amounts of work are drawn in so many parts of one."""


def rung_picture(facts: SearchFacts) -> Draw:
    """How far each trial came: a line from rung to rung."""
    rungs = facts.rungs
    index = {rung.rung: at for at, rung in enumerate(rungs)}
    values: dict[int, list[tuple[int, float]]] = {}
    for row in sorted(facts.trials, key=lambda row: (row.rung, row.trial)):
        if row.value is not None:
            values.setdefault(row.trial, []).append((index[row.rung], row.value))
    shown = sorted(values, key=lambda trial: (trial not in _marked(facts), -values[trial][-1][0], trial))[:MOST_LINES]
    lines = [TrialLine(f"trial {trial}", tuple(values[trial]), _kind(facts, trial)) for trial in shown]
    columns = [
        RungColumn(describe_share(rung.share), f"{formatting.format_thousands(rung.trials)} tried") for rung in rungs
    ]
    summary = [
        f"at {describe_share(rung.share)} of the training, {rung.trials} trials, {rung.promoted} of them promoted"
        for rung in rungs
    ]
    metric = formatting.get_metric_title(facts.record.metric)
    title = f"{metric} on the validation rows, by rung"
    desc = f"{'; '.join(summary)}."
    return lambda width, name: draw_rung_chart(lines, columns, width=width, name=name, title=title, desc=desc)


def front_pictures(facts: SearchFacts) -> list[Draw]:
    """The finalists by the first aim and each other one; none where fewer than two aims were measured."""
    aims = facts.record.aims
    return [_front(facts, aims[0], other) for other in aims[1:] if len(_measured(facts, aims[0], other)) > 1]


def importance_picture(facts: SearchFacts) -> Draw:
    """How much each setting matters in its branch."""
    rows = [
        Bar(
            _setting(fact.branch, fact.setting),
            (round(fact.share * SCALED),),
            formatting.format_percentage(fact.share, 1),
        )
        for fact in facts.record.importance[:MOST_SETTINGS]
    ]
    desc = "; ".join(f"{row.label} {row.value_text}" for row in rows) + "."
    title = "How much each setting matters"
    return lambda width, name: draw_bar_chart(rows, width=width, name=name, title=title, desc=desc)


def spent_picture(facts: SearchFacts) -> Draw:
    """What the rungs and the finalists took, in whole trainings."""
    parts = [(f"rung {rung.rung}: {describe_share(rung.share)} of the training", rung.work) for rung in facts.rungs]
    if facts.record.spent_finalists:
        parts.append(("finalists, trained whole", facts.record.spent_finalists))
    rows = [Bar(label, (round(work * SCALED),), describe_work(work)) for label, work in parts]
    desc = "; ".join(f"{row.label}, {row.value_text}" for row in rows) + "."
    return lambda width, name: draw_bar_chart(rows, width=width, name=name, title="What was spent", desc=desc)


def difference_picture(facts: SearchFacts) -> Draw:
    """Each finalist minus `of` on the test rows, with its interval."""
    record = facts.record
    lines = []
    for comparison in record.verdict.comparisons:
        if comparison.against == "of":
            marked = comparison.trial == record.verdict.winner and record.verdict.better
            mark: Mark = "tuned" if marked else "unclear"
            shown = formatting.format_difference(comparison.difference, comparison.low, comparison.high, record.metric)
            lines.append(
                ForestRow(
                    f"Trial {comparison.trial}",
                    shown,
                    comparison.difference,
                    comparison.low,
                    comparison.high,
                    mark,
                    band=comparison.detectable,
                )
            )
    under = "← better · worse →" if record.better == "lower" else "← worse · better →"
    desc = "; ".join(f"{line.label}: {line.value_text}" for line in lines) + "."
    frame = ForestFrame(f"Finalists minus {record.of}, on the same test rows", desc, zero=True, under=under)
    return lambda width, name: draw_forest_plot(lines, frame, width=width, name=name)


def describe_share(share: float) -> str:
    """A share of the whole training: `25 %`."""
    return formatting.format_percentage(share, 1)


def describe_work(work: float) -> str:
    """`2.5 trainings` of `of`."""
    return f"{work:.3g} {'training' if f'{work:.3g}' == '1' else 'trainings'}"


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings in a line, the technique first: `technique lora, learning_rate 0.001`."""
    ordered = sorted(settings.items(), key=lambda item: (item[0] != BRANCH, item[0]))
    return ", ".join(f"{name} {_value(value)}" for name, value in ordered) or "as the recipe has it"


def describe_finalist(facts: SearchFacts, one: FinalistRecord) -> str:
    """`0.906 (0.886–0.923)`: the mean of the seeds on the test rows."""
    return formatting.format_score_interval(ScoreFact(value=one.value, low=one.low, high=one.high), facts.record.metric)


def describe_aim(aim: AimRecord, one: FinalistRecord) -> str:
    """What was measured of a finalist, with its unit; a dash where nothing was."""
    value = one.aims.get(aim.name)
    if value is None:
        return formatting.MISSING
    if aim.unit == "bytes":
        return formatting.format_byte_size(value)
    return f"{value:.4g} {aim.unit}".rstrip()


def list_search_figures(facts: SearchFacts) -> list[tuple[str, str]]:
    """What a search was about and what it took, as names and values."""
    record = facts.record
    known = (
        ("step", record.of),
        (
            "metric",
            f"{formatting.get_metric_title(record.metric)}{' (less is better)' if record.better == 'lower' else ''}",
        ),
        ("branches", formatting.join_words([branch for branch in sorted(record.space) if branch])),
        ("trials", formatting.format_thousands(record.trials) + (f", {record.failed} failed" if record.failed else "")),
        ("budget", describe_work(record.budget)),
        ("spent", describe_work(record.spent)),
        ("ended early", record.stopped),
        ("finalists", describe_work(record.spent_finalists) if record.spent_finalists else ""),
        ("seeds of each finalist", formatting.format_thousands(record.seeds)),
        ("validation rows", formatting.format_thousands(record.validation_rows)),
        ("test rows", formatting.format_thousands(record.test_rows)),
        ("constraints", "; ".join(record.constraints)),
        ("preferred", record.prefer),
        ("not surpassed in every aim", formatting.join_words([f"trial {entry}" for entry in record.front])),
    )
    return [(name, value) for name, value in known if value]


def _front(facts: SearchFacts, first: AimRecord, other: AimRecord) -> Draw:
    points = [
        FrontPoint(
            f"trial {finalist_record.trial}",
            _drawn(other, finalist_record),
            _drawn(first, finalist_record),
            _on(facts, finalist_record.trial),
        )
        for finalist_record in _measured(facts, first, other)
    ]
    desc = "; ".join(f"{point.name}: {first.name} {point.y:.4g}, {other.name} {point.x:.4g}" for point in points) + "."
    title = f"{formatting.get_metric_title(first.name)} and {formatting.get_metric_title(other.name)}"
    frame = FrontFrame(title, desc, _axis(other), _axis(first))
    return lambda width, name: draw_front_chart(points, frame, width=width, name=name)


def _measured(facts: SearchFacts, *aims: AimRecord) -> list[FinalistRecord]:
    return [finalist for finalist in facts.record.finalists if all(aim.name in finalist.aims for aim in aims)]


def _drawn(aim: AimRecord, one: FinalistRecord) -> float:
    """A number at an axis; bytes are drawn in GiB."""
    return float(one.aims[aim.name]) / (2**30 if aim.unit == "bytes" else 1)


def _axis(aim: AimRecord) -> str:
    unit = ", GiB" if aim.unit == "bytes" else f", {aim.unit}" if aim.unit else ""
    return f"{formatting.get_metric_title(aim.name)}{unit} ({'more' if aim.better == 'higher' else 'less'} is better)"


def _on(facts: SearchFacts, trial: int) -> str:
    if trial == facts.record.verdict.winner:
        return "tuned"
    return "held" if trial in facts.record.front else "off"


def _marked(facts: SearchFacts) -> set[int]:
    return {0, facts.record.verdict.winner, *(finalist.trial for finalist in facts.record.finalists)}


def _kind(facts: SearchFacts, trial: int) -> str:
    if trial == facts.record.verdict.winner:
        return "tuned"
    return "against" if trial == 0 else "faint"


def _setting(branch: str, setting: str) -> str:
    if setting == BRANCH and not branch:
        return "which technique"
    return f"{branch}: {setting}" if branch else setting


def _value(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else canonical_json(value)
