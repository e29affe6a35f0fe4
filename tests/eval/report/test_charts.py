"""Charts: valid SVG whatever the numbers, with everything inside the frame."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.eval.report.charts.bars import Bar, FlowBranch, draw_bar_chart, draw_flow_chart
from luthier.eval.report.charts.classification import (
    draw_confusion_heatmap,
    draw_reliability_diagram,
    get_heat_css_class,
)
from luthier.eval.report.charts.curves import (
    MOST_POINTS,
    CurvePoint,
    downsample_points,
    draw_learning_curve,
    draw_training_curves,
    smooth_points,
)
from luthier.eval.report.charts.drawing import (
    STRONG_LETTER,
    Scale,
    choose_axis_ticks,
    list_powers_of_ten,
    truncate_to_width,
)
from luthier.eval.report.charts.forest import ForestFrame, ForestRow, draw_forest_plot
from luthier.eval.report.facts.tuning import LogPoint
from tests.eval.report import example

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(svg: str) -> ElementTree.Element:
    """The SVG as XML, with every coordinate finite."""
    root = ElementTree.fromstring(svg)
    for shape in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"):
            if name in shape.attrib:
                assert math.isfinite(float(shape.attrib[name]))
    return root


@given(numbers, numbers, st.integers(1, 10))
def test_ticks_are_round_and_inside(one: float, other: float, wanted: int) -> None:
    low, high = sorted((one, other))
    found = choose_axis_ticks(low, high, wanted)
    room = (high - low) * 1e-6 + 1e-9
    assert all(low - room <= tick <= high + room for tick in found)
    assert len(found) <= 3 * wanted + 2


def test_ticks_of_a_usual_axis() -> None:
    assert choose_axis_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert choose_axis_ticks(-0.1, 0.3, 4) == [-0.1, 0, 0.1, 0.2, 0.3]
    assert choose_axis_ticks(0, 5e-324) == [0]
    assert list_powers_of_ten(0.5, 2000) == [1, 10, 100, 1000]


@given(numbers, numbers, numbers)
def test_a_scale_stays_within_its_pixels(low: float, high: float, value: float) -> None:
    assert 10 - 1e-6 <= Scale(min(low, high), max(low, high), 10, 90)(value) <= 90 + 1e-6


@settings(max_examples=50)
@given(st.lists(st.tuples(numbers, st.floats(0, 1e3)), max_size=5), st.sampled_from((372, 800)), st.booleans())
def test_forest_of_any_values(rows: list[tuple[float, float]], width: int, zero: bool) -> None:
    lines = [
        ForestRow(f"<{at}>", "said & done", value, value - half, value + half) for at, (value, half) in enumerate(rows)
    ]
    frame = ForestFrame("a < b", "d & e", zero=zero)
    root = parsed(draw_forest_plot(lines, frame, width=width, name="x"))
    for shape in root.iter():
        if "cx" in shape.attrib:
            assert 0 <= float(shape.attrib["cx"]) <= width


def test_forest_of_missing_values() -> None:
    lines = [
        ForestRow("nothing", "–", None),
        ForestRow("half", "1", 1.0, None, None, "plain"),
        ForestRow("head", "", None, mark="head"),
    ]
    parsed(draw_forest_plot(lines, ForestFrame("t", "d"), width=800, name="x"))
    parsed(
        draw_forest_plot(
            [ForestRow("s", "1 s", 0.0, reference_value=12.0)],
            ForestFrame("t", "d", log_seconds=True),
            width=372,
            name="x",
        )
    )


def test_words_do_not_overlap_on_a_phone() -> None:
    long = ForestRow(
        "a label that is much too long for a phone, however one turns it", "+0.414 (+0.369 to +0.459)", 0.4
    )
    root = parsed(draw_forest_plot([long], ForestFrame("t", "d"), width=372, name="x"))
    words = [shape for shape in root.iter("text") if shape.attrib["class"].split()[0] in ("label", "value")]
    assert len({shape.attrib["y"] for shape in words}) == 2
    assert all(len(shape.text or "") * STRONG_LETTER <= 372 for shape in words)


@pytest.mark.parametrize("width", [372, 800])
def test_flow_draws_every_branch_in_proportion(width: int) -> None:
    branches = [
        FlowBranch("trained on", 900, "tuned"),
        FlowBranch("held out", 100, "held"),
        FlowBranch("dropped: <x>", 0, "against"),
    ]
    root = parsed(draw_flow_chart(branches, width=width, name="x", desc="d"))
    ends = [float(shape.attrib["height"]) for shape in root.iter("rect") if shape.attrib["class"].startswith("end")]
    assert ends[0] == pytest.approx(9 * ends[1])
    parsed(draw_flow_chart([], width=width, name="x", desc="d"))


def test_smoothing_keeps_a_straight_line_and_does_not_lag() -> None:
    line = [(float(at), 3.0 - 0.01 * at) for at in range(200)]
    assert [y for _, y in smooth_points(line)] == pytest.approx([y for _, y in line])


@given(st.integers(0, 3000))
def test_a_long_log_is_thinned_without_losing_its_mean(count: int) -> None:
    points = [(float(at), float(at % 7)) for at in range(count)]
    few = downsample_points(points)
    assert len(few) <= MOST_POINTS
    if count:
        assert few[0][0] <= few[-1][0]


def test_curves() -> None:
    parsed(draw_training_curves(example.log(), width=800, name="x", desc="d"))
    told = draw_training_curves(example.log(), width=372, name="x", desc="d")
    for strip in ("held out", "accuracy", "learning rate", "gradient norm"):
        assert f">{strip}</text>" in told
    assert "accuracy, step 240: 0.897" in told
    assert "gradient norm" not in draw_training_curves([LogPoint(step=1, loss=2.0)], width=800, name="x", desc="d")
    parsed(draw_training_curves([LogPoint(step=1, loss=2.0)], width=372, name="x", desc="d"))
    parsed(draw_training_curves([LogPoint(step=1), LogPoint(step=2, loss=0.0, lr=0.0)], width=372, name="x", desc="d"))
    parsed(draw_training_curves([], width=372, name="x", desc="d"))


@pytest.mark.parametrize("width", [800, 372])
def test_learning_curve_draws_what_was_measured_and_what_is_foretold(width: int) -> None:
    points = [CurvePoint(10.0 * 2**at, 0.5 + at / 20, 0.4 + at / 20, 0.6 + at / 20, at < 4) for at in range(6)]
    told = draw_learning_curve(points, "accuracy", width=width, name="x", desc="d")
    parsed(told)
    assert "80 rows: 0.650 (0.550 to 0.750)" in told
    assert "foretold" in told
    parsed(draw_learning_curve([CurvePoint(5, 0.5, 0.5, 0.5, True)], "accuracy", width=width, name="x", desc="d"))


def test_squares_and_bars() -> None:
    for each in example.evaluation().reliability:
        parsed(draw_reliability_diagram(each, name="x", title="t", desc="d"))
    root = parsed(draw_confusion_heatmap(example.confusion(), name="x", title="t", desc="d"))
    wrong = [shape for shape in root.iter("rect") if "wrong" in shape.attrib["class"]]
    counts = example.confusion().counts
    assert len(wrong) == sum(1 for i, row in enumerate(counts) for j, times in enumerate(row) if times and i != j)
    parsed(draw_bar_chart([Bar("a", (3, 1), "3 + 1"), Bar("b", (0, 0), "0")], width=372, name="x", title="t", desc="d"))


def test_heat_grows_with_the_share() -> None:
    assert get_heat_css_class(0) == "h0"
    assert get_heat_css_class(1e-9) == "h1"
    assert get_heat_css_class(1) == "h5"
    assert [get_heat_css_class(at / 100) for at in range(101)] == sorted(
        get_heat_css_class(at / 100) for at in range(101)
    )


def test_fitted_words_say_that_they_were_cut() -> None:
    assert truncate_to_width("short", 100) == "short"
    assert truncate_to_width("a long label", 40).endswith("…")
