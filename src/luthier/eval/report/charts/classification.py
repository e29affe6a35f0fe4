"""Square pictures: the reliability diagram, and the heat map of a confusion with many labels."""

from __future__ import annotations

from luthier.eval.report.charts.drawing import Scale, SvgDrawing, format_tick_label
from luthier.eval.report.facts.models import ConfusionMatrix, ReliabilityFacts
from luthier.eval.report.palette import HEAT

SIDE = 340
MOST_HINTS = 40
"""A confusion with more labels has no words under the pointer: they would weigh more than all else."""


def draw_reliability_diagram(facts: ReliabilityFacts, *, name: str, title: str, desc: str) -> str:
    """What a model said of its own certainty (across), and what came true (up); the diagonal is honest."""
    drawing = SvgDrawing(SIDE, SIDE, name=name, title=title, desc=desc)
    across, up = Scale(0, 1, 40, SIDE - 12), Scale(0, 1, SIDE - 46, 8)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line(across(tick), up(0), across(tick), up(1), "grid")
        drawing.line(across(0), up(tick), across(1), up(tick), "grid")
        drawing.text(across(tick), up(0) + 16, format_tick_label(tick), "tick", "middle")
        drawing.text(across(0) - 8, up(tick) + 4, format_tick_label(tick), "tick", "end")
    drawing.line(across(0), up(0), across(1), up(1), "honest")
    drawing.text(across(0.5), up(0) + 36, "stated probability →", "tick", "middle")
    drawing.text(across(0) + 6, up(1) + 14, "↑ share that was right", "tick")
    drawing.text(across(0.98), up(0) - 8, "below the line: overconfident", "tick", "end")
    most = max((part.rows for part in facts.bins), default=1)
    for part in facts.bins:
        if part.accuracy.value is None:
            continue
        x = across(part.confidence)
        if part.accuracy.low is not None and part.accuracy.high is not None:
            drawing.line(x, up(part.accuracy.low), x, up(part.accuracy.high), "whisker tuned")
        hint = f"said {part.confidence:.2f}, right {part.accuracy.value:.2f}, {part.rows} rows"
        drawing.circle(x, up(part.accuracy.value), 3 + 8 * (part.rows / most) ** 0.5, "bubble", hint)
    return str(drawing)


def draw_confusion_heatmap(facts: ConfusionMatrix, *, name: str, title: str, desc: str) -> str:
    """A confusion with many labels: a square for each pair that occurred, darker where it was a larger share."""
    side, most = 560, len(facts.labels)
    cell = side / max(most, 1)
    drawing = SvgDrawing(side, side + 24, name=name, title=title, desc=desc)
    drawing.rect(0, 0, side, side, "ground")
    squares: dict[str, list[str]] = {}
    for row, (label, counts) in enumerate(zip(facts.labels, facts.counts, strict=True)):
        total = sum(counts)
        for column, times in enumerate(counts):
            if not times:
                continue
            kind = get_heat_css_class(times / total) + ("" if row == column else " wrong")
            if most <= MOST_HINTS:
                hint = f"{label} answered as {facts.labels[column]}: {times} of {total}"
                drawing.rect(column * cell, row * cell, cell, cell, kind, hint)
            else:
                squares.setdefault(kind, []).append(f"M{column} {row}h1v1h-1z")
    for kind, paths in sorted(squares.items()):
        drawing.path("".join(paths), kind, scale=cell)
    drawing.text(0, side + 17, "rows: the right label; columns: the answer; both in alphabetical order", "tick")
    return str(drawing)


def get_heat_css_class(share: float) -> str:
    """The class of a heat step for a share of 0 to 1; anything above nothing is visible."""
    if share <= 0:
        return "h0"
    return f"h{min(1 + int(share * (len(HEAT) - 1)), len(HEAT) - 1)}"
