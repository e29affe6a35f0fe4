"""What a search may try for one setting: what is refused, and what lies within."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthier.core.param_space import ParamDistribution, is_same_value, list_unique_values


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "nothing between low 0 and high 0"),
        ({"low": 2, "high": 1}, "nothing between low 2 and high 1"),
        ({"low": 1, "high": float("inf")}, "finite"),
        ({"low": float("nan"), "high": 1}, "finite"),
        ({"low": 0, "high": 1, "log": True}, "above 0"),
        ({"low": 0.5, "high": 2, "integer": True}, "whole bounds"),
        ({"values": (1, 2), "high": 3}, "no bounds"),
        ({"values": (1, 2), "log": True}, "no bounds"),
        ({"values": ([1, 2], (1, 2))}, "twice"),
    ],
)
def test_what_is_empty_or_inverted_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ParamDistribution(**settings)


def test_numbers_lie_within_bounds() -> None:
    rate = ParamDistribution(1e-4, 1e-2, log=True)
    assert rate.contains(1e-4)
    assert rate.contains(1e-2)
    assert not any(rate.contains(one) for one in (0, 1, "auto", None, True, float("nan")))
    count = ParamDistribution(1, 4, integer=True)
    assert count.contains(2)
    assert count.contains(2.0)
    assert not count.contains(2.5)
    assert not count.contains(True)


def test_values_are_compared_as_settings() -> None:
    flags = ParamDistribution(values=(True, None, [1, 2], {"words": (1, None)}))
    assert all(flags.contains(one) for one in (True, None, (1, 2), {"words": [1, None]}))
    assert not any(flags.contains(one) for one in (1, False, [2, 1], {"words": [1, 2]}))
    assert ParamDistribution(values=(1, True)).values == (1, True)
    assert is_same_value([1, (2,)], (1, [2]))
    assert list_unique_values(([1], (1,), 2, True, 1, 2)) == ([1], 2, True, 1)


def test_it_is_written_as_a_recipe_writes_it() -> None:
    assert ParamDistribution(1, 4, integer=True).to_json() == {"low": 1, "high": 4, "integer": True}
    assert ParamDistribution(1e-5, 1e-3, log=True).to_json() == {"low": 1e-5, "high": 1e-3, "log": True}
    found = ParamDistribution(values=((1, 2), {"words": (1, None)}, "a")).to_json()
    assert json.loads(json.dumps(found)) == found == {"values": [[1, 2], {"words": [1, None]}, "a"]}
