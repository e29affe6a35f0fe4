"""Several aims: the front, and constraints as rules of a gate."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.artifacts.search import AimRecord
from luthier.auto.search.pareto import (
    find_contradiction,
    find_front,
    find_unmet,
    parse_aim,
    parse_constraint,
)
from luthier.core.errors import RecipeError
from luthier.core.expressions import ExpressionError

AIMS = (AimRecord(name="macro_f1", better="higher"), AimRecord(name="latency", better="lower", unit="s"))


def test_the_front_holds_what_no_other_surpasses_the_best_first() -> None:
    points = {
        0: {"macro_f1": 0.8, "latency": 2.0},
        1: {"macro_f1": 0.9, "latency": 3.0},
        2: {"macro_f1": 0.8, "latency": 2.5},
        3: {"macro_f1": 0.7, "latency": 1.0},
        4: {"macro_f1": 0.9, "latency": 3.0},
        5: {"macro_f1": 0.99},
    }
    assert find_front(points, AIMS) == (1, 4, 0, 3)
    assert find_front(dict(reversed(points.items())), AIMS) == (1, 4, 0, 3)
    assert find_front({}, AIMS) == ()


def test_with_one_aim_the_front_is_the_best() -> None:
    assert find_front({0: {"macro_f1": 0.8}, 1: {"macro_f1": 0.9}}, AIMS[:1]) == (1,)


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_the_front_is_that_of_moocore(dimensions: int) -> None:
    moocore = pytest.importorskip("moocore")
    random = np.random.default_rng(dimensions)
    for _ in range(20):
        losses = np.round(random.random((25, dimensions)), 1)
        aims = [AimRecord(name=f"x{at}", better="lower") for at in range(dimensions)]
        points = {row: {f"x{at}": float(value) for at, value in enumerate(one)} for row, one in enumerate(losses)}
        expected = set(np.flatnonzero(moocore.is_nondominated(losses, keep_weakly=True)))
        assert set(find_front(points, aims)) == expected


def test_constraints_are_rules_of_a_gate() -> None:
    measured = {"macro_f1": 0.85, "latency": 0.15, "bias.gap": 0.04}
    references = {"of": {"macro_f1": 0.86, "bias.gap": 0.05}}
    rules = ["macro_f1 >= 0.8", "latency <= 0.2", "bias.gap <= of", "macro_f1 >= of - 1%"]
    assert find_unmet(rules, measured, references) == ""
    assert find_unmet([*rules, "latency < 0.1"], measured, references) == "latency < 0.1: latency is 0.15"
    assert find_unmet(["macro_f1 > of"], measured, references) == "macro_f1 > of: macro_f1 is 0.85"


def test_what_was_not_measured_is_no_constraint() -> None:
    with pytest.raises(RecipeError, match="memory was not measured"):
        find_unmet(["memory <= 1000000"], {"macro_f1": 1.0})


@pytest.mark.parametrize("text", ["macro_f1", "nonsense >= 1", "latency <= base", "people.difference > 0", "no x"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_constraint(text)


def test_rules_that_contradict_each_other_are_found() -> None:
    assert find_contradiction(["macro_f1 >= 0.9", "macro_f1 < 0.9"]) == (
        "no model meets both 'macro_f1 >= 0.9' and 'macro_f1 < 0.9'"
    )
    assert find_contradiction(["latency > 2", "macro_f1 >= 0.9", "latency <= 1"])
    assert not find_contradiction(["macro_f1 >= 0.9", "macro_f1 <= 0.9", "latency <= 1", "bias.gap <= of"])


def test_aims_know_which_way_they_are_better() -> None:
    found = {name: parse_aim(name).better for name in ("macro_f1", "wer", "latency", "bias.gap", "arc_easy.acc")}
    assert found == {
        "macro_f1": "higher",
        "wer": "lower",
        "latency": "lower",
        "bias.gap": "lower",
        "arc_easy.acc": "higher",
    }
    assert parse_aim("bias.gap", "higher").better == "higher"
    assert parse_aim("memory").unit == "bytes"
    with pytest.raises(RecipeError, match="nothing is measured"):
        parse_aim("macrof2")
