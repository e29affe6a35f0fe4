"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import InputError
from luthier.core.files import is_env_var, resolve_path


def test_a_relative_path_starts_at_the_base_and_an_absolute_one_stays() -> None:
    assert resolve_path("data/a.csv", Path("/recipes")) == Path("/recipes/data/a.csv")
    assert resolve_path("/data/a.csv", Path("/recipes")) == Path("/data/a.csv")


def test_the_home_folder_and_variables_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("DATA", "/mnt/data")
    assert resolve_path("~/a.csv", Path("/recipes")) == Path("/home/ada/a.csv")
    assert resolve_path("$DATA/a.csv", Path("/recipes")) == Path("/mnt/data/a.csv")
    assert resolve_path("${DATA}/a.csv", Path("/recipes")) == Path("/mnt/data/a.csv")


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(InputError, match="no variable NOWHERE"):
        resolve_path("$NOWHERE/a.csv", Path())


@pytest.mark.parametrize(("text", "is_one"), [("$NAME", True), ("${NAME}", True), ("$5 off", False), ("a$NAME", False)])
def test_what_counts_as_a_variable(text: str, is_one: bool) -> None:
    assert is_env_var(text) is is_one
