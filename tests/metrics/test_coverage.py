"""A claimed 95 % interval of everything that is stated holds the truth in 90 to 98 % of drawn sets of rows.

The populations are those of `benchmarks/coverage.py`, which prints the whole table. Exceptions are stated with their
numbers in `docs/howto/is-it-better.md`.
"""

from __future__ import annotations

import pytest
from benchmarks import coverage

from luthier.core.component import members
from luthier.metrics.metric import Metric

SETS = 200
WIDE = ("groups apart", "recall, difference", "f1, difference", "precision, difference", "ece")
"""These err wide on few rows: a share of a handful of rows, the greatest of several differences, what chance adds."""


def held(family: coverage.Family, rows: int, sets: int = SETS) -> None:
    """Nothing is covered in fewer than 90 % or more than 98 % of the sets, two standard errors aside."""
    least, most = (share + side * 2 * (share * (1 - share) / sets) ** 0.5 for share, side in ((0.90, -1), (0.98, 1)))
    shares = coverage.covered(family, rows, sets)
    assert {name: share for name, share in shares.items() if share < least} == {}
    assert {name: share for name, share in shares.items() if share > most and not name.startswith(WIDE)} == {}


def test_every_metric_is_simulated() -> None:
    told = {
        name.removesuffix(", difference") for family in coverage.metric_families().values() for name in family.truth
    }
    assert told | set(coverage.OF_A_SET) == set(members(Metric))


@pytest.mark.parametrize("name", ["columns", "duels"])
def test_few_sets(name: str) -> None:
    """A look that takes seconds; the long ones are slow."""
    shares = coverage.covered(getattr(coverage, name)(), 30, 40)
    assert min(shares.values()) >= 0.80


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 120])
@pytest.mark.parametrize("name", ["labels", "scored", "number", "json", "calls"])
def test_metrics(name: str, rows: int) -> None:
    held(coverage.metric_families()[name], rows)


@pytest.mark.slow
def test_metrics_of_texts() -> None:
    """Fewer sets: thirty metrics, some of which take a millisecond a row."""
    held(coverage.metric_families()["texts"], 60, 80)


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
