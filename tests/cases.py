"""Which cases of a matrix are tried each time, and which by `./check --all` alone.

`@pytest.mark.matrix` on a test keeps the fewest cases in which every value of each axis stands; the others become slow
tests. `@pytest.mark.matrix("lora", "full*")` chooses among those whose name in brackets is like one of these: the cases
that take a path of their own through the code, where the others pass through lines that other quick tests reach.
"""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase

import pytest

Place = tuple[int, str]
"""The number of an axis, and the name of a value on it. Names that are parametrized together are one axis."""


def mark_slow_cases(items: list[pytest.Item]) -> None:
    """Mark the cases of each matrix that are not tried each time: the same in each order of the tests."""
    matrices = defaultdict[str, list[pytest.Function]](list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("matrix") and hasattr(item, "callspec"):
            matrices[item.nodeid.partition("[")[0]].append(item)
    for cases in matrices.values():
        _mark_matrix(sorted(cases, key=lambda case: sorted(_find_places(case))))


def _mark_matrix(cases: list[pytest.Function]) -> None:
    kept = [case for case in cases if not case.get_closest_marker("slow") and _is_named(case)]
    if not kept:  # one case alone was asked for, or was renamed: none is left out for that
        return
    quick = {kept[at].nodeid for at in choose_cases([_find_places(case) for case in kept])}
    for case in cases:
        if case.nodeid not in quick:
            case.add_marker("slow")


def choose_cases(cases: list[frozenset[Place]]) -> list[int]:
    """The fewest that a greedy choice finds in which each place of each axis stands that stands in any."""
    left, chosen = set[Place]().union(*cases), list[int]()
    while left:
        at = max(range(len(cases)), key=lambda at: (len(cases[at] & left), -at))
        chosen.append(at)
        left -= cases[at]
    return chosen


def _find_places(case: pytest.Function) -> frozenset[Place]:
    return frozenset(enumerate(case.callspec._idlist))  # its `indices` number the cases, not the values


def _is_named(case: pytest.Function) -> bool:
    mark = case.get_closest_marker("matrix")
    return mark is None or not mark.args or any(fnmatchcase(case.callspec.id, like) for like in mark.args)
