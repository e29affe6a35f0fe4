"""Of a matrix, the cases that are tried each time have every value of each axis; the others are slow."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.cases import choose_cases, mark_slow_cases

MATRIX = """
import pytest

@pytest.mark.matrix
@pytest.mark.parametrize("family", ["llava", "qwen", "gemma"])
@pytest.mark.parametrize(("kind", "extra"), [("sft", 0), ("sft", 1), ("dpo", 0), ("kto", 0)])
def test_every_value(kind, extra, family):
    pass

@pytest.mark.matrix("lora*", "full")
@pytest.mark.parametrize("way", ["full", "ia3", "lora", pytest.param("lora-8", marks=pytest.mark.slow)])
def test_named(way):
    pass

@pytest.mark.matrix("gone")
@pytest.mark.parametrize("way", ["full", "ia3"])
def test_renamed(way):
    pass
"""


def test_the_fewest_cases_have_every_value_of_each_axis() -> None:
    cases = [frozenset(enumerate(one)) for one in product("abcd", "xyz", "12")]
    chosen = [cases[at] for at in choose_cases(cases)]
    assert len(chosen) == 4
    assert set().union(*chosen) == set().union(*cases)


class Chooser:
    """Takes the tests that are found, in an order of its own."""

    def __init__(self, order: int) -> None:
        self._order = order
        self.quick: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = items[:: self._order]
        mark_slow_cases(items)
        self.quick = {item.name for item in items if not item.get_closest_marker("slow")}


def find_quick(folder: Path, order: int) -> set[str]:
    """The names of the cases that are tried each time."""
    chooser = Chooser(order)
    options = ["--collect-only", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    assert pytest.main(["-c", str(folder / "pytest.ini"), *options, str(folder)], plugins=[chooser]) == 0
    return chooser.quick


def test_cases_are_chosen_alike_in_each_order(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    matrix: cases\n    slow: others\n")
    (tmp_path / "test_matrix.py").write_text(MATRIX)
    quick = find_quick(tmp_path, 1)
    assert quick == find_quick(tmp_path, -1)
    values = [name.partition("[")[2][:-1].split("-") for name in quick if name.startswith("test_every_value")]
    assert len(values) == 4
    assert {family for *_, family in values} == {"llava", "qwen", "gemma"}
    assert {name for name in quick if "_named" in name} == {"test_named[lora]", "test_named[full]"}
    assert {name for name in quick if "renamed" in name} == {"test_renamed[full]", "test_renamed[ia3]"}, "none is lost"
