"""Who finds names in traffic: those who found them in the rows of the models that are served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.commands.serve import NameRedactionSettings, collect_name_redaction
from luthier.core.artifact import Artifact, Manifest
from luthier.core.errors import UnknownName
from luthier.pii.recognizers.minilm import Minilm
from luthier.pii.recognizers.rampart import Rampart
from luthier.traces.retention import RetentionPolicy


class Shelf:
    """Artifacts by digest, without files."""

    def __init__(self) -> None:
        self._held: dict[str, Artifact] = {}

    def put(self, digest: str, settings: Mapping[str, Any], **inputs: str) -> Artifact:
        manifest = Manifest(
            digest=digest, kind="any", makes="model", settings=dict(settings), inputs=inputs, reads={}, code="", seed=0,
            files=[],
        )  # fmt: skip
        self._held[digest] = Artifact(Path(), manifest, self.find)
        return self._held[digest]

    def find(self, digest: str) -> Artifact:
        if digest not in self._held:
            raise UnknownName(f"no {digest}")
        return self._held[digest]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def pii(**more: Any) -> dict[str, Any]:
    return {"ops": [{"kind": "normalize"}, {"kind": "pii", "action": "redact", "actions": {}, **more}]}


def test_it_is_that_of_the_rows_however_far_above_they_stand(shelf: Shelf) -> None:
    shelf.put("data", pii(ner=Rampart(min_score=0.4).settings(), names_in=["prompt", "meta"]))
    shelf.put("more", {"augmenters": []}, data="data")
    shelf.put("base", {})
    model = shelf.put("tune", {}, data="more", model="base")
    found = collect_name_redaction([model], Path())
    assert found == NameRedactionSettings((Rampart(min_score=0.4),), ("prompt", "meta"))
    keeping = RetentionPolicy().model_copy(update=found.settings())
    assert RetentionPolicy.model_validate_json(keeping.model_dump_json()) == keeping


def test_several_models_have_all_that_any_of_them_has(shelf: Shelf) -> None:
    rampart, minilm = Rampart().settings(), Minilm().settings()
    shelf.put("one", pii(ner=rampart, names_in=["prompt"], actions={"organisation": "keep"}))
    shelf.put("two", pii(ner=minilm, names_in=["answer"], action="flag", actions={"person": "redact"}))
    models = [shelf.put("a", {}, data="one"), shelf.put("b", {}, data="two", model="a")]
    found = collect_name_redaction(models, Path())
    assert found == NameRedactionSettings((Rampart(), Minilm()), ("prompt", "answer"), ("organisation",))
    kinds = RetentionPolicy().model_copy(update=found.settings()).kinds
    assert "person" in kinds
    assert "organisation" not in kinds
    assert collect_name_redaction([*models[:1], shelf.put("c", {}, data="nothing")], Path()).names == (Rampart(),)


def test_without_names_nothing_is_set(shelf: Shelf) -> None:
    shelf.put("data", pii(ner=None))
    model = shelf.put("tune", {}, data="data", tuned="gone")
    assert collect_name_redaction([model], Path()).settings() == {}


def test_a_folder_of_a_recogniser_starts_at_the_recipe(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shelf.put("data", pii(ner=Rampart(folder="mine").settings()))
    (names,) = collect_name_redaction([shelf.put("tune", {}, data="data")], tmp_path).names
    assert isinstance(names, Rampart)
    assert Path(str(names.folder)) == tmp_path / "mine"
