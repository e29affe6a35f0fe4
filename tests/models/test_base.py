"""The base step: one artifact for all recipes of a user, and what it is expected to cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact
from luthier.core.step import PlanContext
from luthier.models.catalog import resolve_model_source
from luthier.models.cost import describe_step_model
from luthier.models.describe import describe_model_folder
from luthier.models.sources.folder import FolderModelSource
from luthier.models.steps.base import BaseModelStep
from tiny_models import tiny_model


def test_seeds_share_one_model_and_contents_do_not(tmp_path: Path) -> None:
    tiny_model(tmp_path / "a")
    tiny_model(tmp_path / "b", seed=1)
    one, other = BaseModelStep(source=FolderModelSource(path="a")), BaseModelStep(source=FolderModelSource(path="b"))
    assert one.shared
    first = one.recipe_digest({}, one.contents(tmp_path), 1)
    assert first == one.recipe_digest({}, one.contents(tmp_path), 2)
    assert first != other.recipe_digest({}, other.contents(tmp_path), 1)


def test_foresight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    tiny_model(tmp_path / "a")
    near = BaseModelStep(source=FolderModelSource(path="a")).estimate_cost(
        PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)
    )
    assert near.seconds is not None
    assert "MB" in near.how
    far = BaseModelStep(source=resolve_model_source("smollm2-135m-instruct", tmp_path))
    unknown = far.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path))
    assert unknown.seconds is None
    assert "network" in unknown.how
    assert unknown.peak_bytes is not None
    known = far.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, history={"seconds": 9.0}))
    assert known.seconds == 9.0


@pytest.mark.model
def test_the_real_model_is_what_its_publisher_says(smollm2: Artifact) -> None:
    card = smollm2.read_json("model.json")
    assert card["name"] == "smollm2-135m-instruct"
    assert card["licence"] == "apache-2.0"
    assert card["parameters"] == 134_515_008
    assert (card["tied"], card["layers"], card["vocab"], card["context"]) == (True, 30, 49152, 8192)
    told = describe_model_folder(smollm2.folder)
    assert told.dtype == "bfloat16"
    assert told.template is not None
    assert (told.template.family, told.template.generation_marks, told.template.system_default) == (
        "chatml",
        False,
        True,
    )


def test_a_folder_is_known_before_it_is_taken_over(tmp_path: Path) -> None:
    """A first plan tells what a training costs by the folder's own files, as it does once the model is made."""
    tiny_model(tmp_path / "a")
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path)
    outline = BaseModelStep(source=FolderModelSource(path="a")).outline(outlook)
    assert outline.parameters == describe_model_folder(tmp_path / "a").parameters
    assert describe_step_model(replace(outlook, outlines={"model": outline})) == describe_model_folder(tmp_path / "a")
