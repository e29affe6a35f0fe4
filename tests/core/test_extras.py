"""Parts say which optional libraries they need, and each of these has an extra."""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from pydantic import BaseModel

import luthier.data.operator
import luthier.data.source
import luthier.eval.regard
import luthier.monitor.signal
import luthier.pii.recognizer
import luthier.tune.reward  # noqa: F401  # roles are known once they are imported
from luthier.core.component import (
    Component,
    check_installed,
    components_by_kind,
    iter_components_with_paths,
    roles_by_name,
)
from luthier.core.errors import MissingExtra
from luthier.core.system.packages import is_installed, require
from luthier.data.ops.pii import Pii
from luthier.data.ops.toxicity import ToxicityOperator
from luthier.pii.recognizers.rampart import Rampart
from luthier.pii.recognizers.spacy import Spacy

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
INSTALLED = cache(packages_distributions)
NEEDING = [one for role in roles_by_name().values() for one in components_by_kind(role).values() if one.libraries]


class Bag(BaseModel):
    """Parts at places of all sorts."""

    one: Component
    many: tuple[Component, ...]
    named: dict[str, Component]


@pytest.mark.parametrize("part", NEEDING, ids=lambda part: f"{part.role}-{part.__name__}")
def test_the_extra_that_a_part_names_brings_its_library(part: type[Component]) -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for module, extra in part.libraries.items():
        brought = {word.split(">=")[0].split("[")[0].lower() for word in extras[extra]}
        known = {name.lower() for name in INSTALLED().get(module, [module])}
        assert brought & known, f"{extra} does not bring {module}"


def test_there_are_parts_of_all_rooms() -> None:
    assert {part.role for part in NEEDING} >= {"source", "operator", "recogniser", "reward", "signal", "regard"}


def test_a_missing_library_is_said_with_its_command_and_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    bag = Bag.model_construct(one=Pii(), many=(Pii(), Pii(ner=Rampart())), named={"a": ToxicityOperator()})
    assert [path for path, _ in iter_components_with_paths(bag)] == ["one", "many.0", "many.1", "many.1.ner", "named.a"]
    check_installed(bag, Path())
    monkeypatch.setitem(sys.modules, "badwords", None)
    with pytest.raises(MissingExtra, match="the operator toxicity needs the library badwords") as caught:
        check_installed(bag, Path())
    assert caught.value.where.field == "named.a"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra) as caught:
        check_installed(bag, Path())
    assert caught.value.where.field == "many.1.ner"
    assert caught.value.hint == "pip install 'luthier[names]'"


def test_settings_decide_whether_a_library_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "badwords", None)
    ToxicityOperator(model=str(tmp_path)).check_installed(tmp_path)
    with pytest.raises(MissingExtra, match="no pipeline 'no_such_pipeline' here") as caught:
        Spacy(model="no_such_pipeline").check_installed(tmp_path)
    assert "pip install no_such_pipeline" in caught.value.hint
    Spacy(model=str(tmp_path)).check_installed(tmp_path)


def test_a_module_that_python_cannot_find_is_missing() -> None:
    for name in ("no_such_module", "no_such_package.inside", "json.inside"):
        assert not is_installed(name)
        with pytest.raises(MissingExtra, match="or do without"):
            require(name, "names", "this", otherwise="do without")
    assert is_installed("json.decoder")


def test_most_parts_fetch_nothing() -> None:
    said: list[str] = []
    Pii().download(said.append)
    assert (Pii().download_bytes(), said) == (0, [])
    assert Rampart(folder="elsewhere").download_bytes() == 0
