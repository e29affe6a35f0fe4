"""A claimed 95 % interval of everything that is stated holds the truth in 90 to 98 % of drawn sets of rows.

The populations are those of `benchmarks/coverage.py`, which prints the whole table, and the reason where a number
cannot be held to that.
"""

from __future__ import annotations

import json

import pytest
from benchmarks import coverage

from luthier.core.component import components_by_kind
from luthier.metrics.metric import Metric

SETS = 200


def held(family: coverage.Family, rows: int, sets: int = SETS) -> None:
    """Nothing is covered in fewer than 90 % or more than 98 % of the sets, but for one standard error by chance below
    and two above: some numbers lie so near to 98 % that every sixth draw of sets would be one error above."""
    least, most = (share + side * (share * (1 - share) / sets) ** 0.5 for share, side in ((0.90, -1), (0.98, 2)))
    shares = coverage.covered(family, rows, sets)
    reasons = coverage.CANNOT if rows == 30 else {}
    assert {name: share for name, share in shares.items() if share < least} == {}
    assert {name: share for name, share in shares.items() if share > most + 1e-9 and name not in reasons} == {}


def test_what_is_outside_by_more_than_chance_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    coverage.summed_up({"narrow": [0.95, 0.86], "wide": [0.995, 0.95], "well": [0.98, 0.905]}, 1000)
    least, most, surely = map(json.loads, capsys.readouterr().out.splitlines())
    assert (least["of"], least["value"], most["of"], most["value"]) == ("narrow", 0.86, "wide", 0.995)
    assert surely["of"] == ["narrow", "wide"]
    assert not coverage.outside(0.89, 100)


def test_every_metric_is_simulated() -> None:
    assert {metric.kind for metrics in coverage.every_metric().values() for metric in metrics} == set(
        components_by_kind(Metric)
    )


@pytest.mark.parametrize("name", ["columns", "duels"])
def test_few_sets(name: str) -> None:
    """A look that takes seconds; the long ones are slow."""
    shares = coverage.covered(getattr(coverage, name)(), 30, 40)
    assert min(shares.values()) >= 0.80


@pytest.mark.parametrize("label", ["a", "b", "c", None])
def test_area_under_the_precision_recall_curve(label: str | None) -> None:
    """BCa covers 87 to 89 % where nine of 30 rows bear the label."""
    held(coverage.family([Metric.parse({"kind": "auprc", "label": label})]), 30)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 120])
@pytest.mark.parametrize("name", ["labels", "scored", "number", "json", "calls"])
def test_metrics(name: str, rows: int) -> None:
    held(coverage.family(coverage.every_metric()[name]), rows)


@pytest.mark.slow
def test_metrics_of_texts() -> None:
    """Thirty metrics, some of which take a millisecond a row; few rows decide, since one in ten is wholly wrong."""
    held(coverage.family(coverage.every_metric()["texts"]), 30)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 120])
@pytest.mark.parametrize("name", ["columns", "groups", "judges", "duels"])
def test_others(name: str, rows: int) -> None:
    held(getattr(coverage, name)(), rows)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 120, 500])
def test_calibration_error(rows: int) -> None:
    """The plain bootstrap covers 69, 90 and 95 % here."""
    family = coverage.family([Metric.parse("ece")])
    shares = coverage.covered(family, rows, SETS)
    assert 0.90 <= min(shares.values()) <= max(shares.values()) <= 0.99
