"""Parts that another installed package brings: known by its entry point, and made anew when its code has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ready
from tests.tiny_models import RECIPE, own_cache, small_recipe

OPERATOR = '''
from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.data.operator import Drop, OperatorResult, RowOperator
from luthier.data.row import Row


class Louder(RowOperator):
    """Leave parcels out."""

    kind: Literal["louder"] = "louder"
    reads: ClassVar[tuple[str, ...]] = ("answer",)

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        outcome = OperatorResult()
        for place, row in enumerate(rows):
            if row.answer == "delivery":
                outcome.drops[place] = Drop("is LOUD")
        return outcome
'''


STEPS = '''
import json
from typing import Annotated, Any, ClassVar, Literal

from luthier.core.artifact import ArtifactType
from luthier.core.step import DataRef, StepCostEstimate, Reads, Step
from luthier.artifacts.dataset import read_examples


class WordCounts(ArtifactType):
    """How often each word is in a data set."""

    kind: Literal["word_counts"] = "word_counts"

    def describe(self, artifact: Any) -> dict[str, Any]:
        return {"words": len(artifact.read_json("words.json"))}


class CountWords(Step):
    """Count the words of a data set."""

    kind: Literal["count_words"] = "count_words"
    makes: ClassVar[str] = "word_counts"
    data: DataRef

    def make(self, work: Any) -> dict[str, Any]:
        words: dict[str, int] = {}
        for example in read_examples(work.inputs["data"], "train"):
            for word in example.messages[0].content.split():
                words[word] = words.get(word, 0) + 1
        (work.folder / "words.json").write_text(json.dumps(words, sort_keys=True))
        return {}

    def estimate_cost(self, plan_context: Any) -> StepCostEstimate:
        return StepCostEstimate(seconds=1.0)


class CommonWords(CountWords):
    """Keep the words that are there more than once."""

    kind: Literal["common_words"] = "common_words"
    data: Annotated[str, Reads("word_counts")]

    def make(self, work: Any) -> dict[str, Any]:
        counts = work.inputs["data"].read_json("words.json")
        words = {word: count for word, count in counts.items() if count > 1}
        (work.folder / "words.json").write_text(json.dumps(words, sort_keys=True))
        return {}
'''


def _install(site: Path, name: str, code: str) -> Path:
    """A folder with an installed package that brings parts; a file, as the smallest have it."""
    (site / f"{name}-1.0.dist-info").mkdir(parents=True)
    (site / f"{name}.py").write_text(code)
    (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(f"[luthier.parts]\n{name} = {name}\n")
    return site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where a package `louder` is installed, which brings an operator."""
    return _install(tmp_path / "site", "louder", OPERATOR)


def _luthier(folder: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of Luthier's with the packages of a site."""
    paths = os.pathsep.join((str(site), *sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "LUTHIER_CACHE": own_cache(folder)}
    command = [sys.executable, "-m", "luthier", *words]
    return ready.run(command, cwd=folder, env=environment)


def _data(folder: Path, site: Path) -> dict[str, Any]:
    """What a run says of the data set that it made or found."""
    done = _luthier(folder, site, "run", "recipe.yaml", "--only", "data", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)["steps"]["data"]
    return told


def _loud(told: dict[str, Any]) -> bool:
    """Whether rows were dropped for the reason that the plug-in gave at first."""
    return "is LOUD" in (Path(told["path"]) / "summary.json").read_text()


@pytest.mark.parametrize("is_package", [False, True])
def test_changed_code_of_a_plug_in_makes_its_data_anew(tmp_path: Path, site: Path, *, is_package: bool) -> None:
    code = site / "louder.py"
    if is_package:
        (site / "louder").mkdir()
        code = code.rename(site / "louder" / "__init__.py")
    small_recipe(tmp_path, RECIPE.replace("ops: [", "ops: [louder, "))
    first, again = _data(tmp_path, site), _data(tmp_path, site)
    assert _loud(first)
    assert (again["cached"], again["path"]) == (True, first["path"])
    code.write_text(OPERATOR.replace("is LOUD", "is quiet"))
    changed = _data(tmp_path, site)
    assert not changed["cached"]
    assert not _loud(changed)


def test_a_plug_in_adds_a_type_of_artifact(tmp_path: Path) -> None:
    site = _install(tmp_path / "site", "counting", STEPS)
    added = "  words: {kind: count_words, data: data}\n  common: {kind: common_words, data: words}\n"
    small_recipe(tmp_path, RECIPE.rstrip() + "\n" + added)
    done = _luthier(tmp_path, site, "run", "recipe.yaml", "--only", "common", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [json.loads(_luthier(tmp_path, site, "show", f":{name}", "--json").stdout) for name in ("words", "common")]
    assert [one["makes"] for one in shown] == ["word_counts", "word_counts"]
    assert shown[0]["summary"]["words"] > shown[1]["summary"]["words"] > 0
    small_recipe(tmp_path, RECIPE.rstrip() + "\n" + added.replace("data: words", "data: data"))
    refused = _luthier(tmp_path, site, "plan", "recipe.yaml")
    assert "expected a step that makes word_counts; 'data' makes a dataset" in refused.stderr


def test_a_step_of_no_known_type_is_refused(tmp_path: Path) -> None:
    code = STEPS.replace('makes: ClassVar[str] = "word_counts"', 'makes: ClassVar[str] = "word_count"')
    site = _install(tmp_path / "site", "counting", code)
    small_recipe(tmp_path, RECIPE.rstrip() + "\n  words: {kind: count_words, data: data}\n")
    refused = _luthier(tmp_path, site, "plan", "recipe.yaml")
    assert "(steps.words.kind): makes 'word_count', which is no artifact type" in refused.stderr
    assert "did you mean 'word_counts'?" in refused.stderr


EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the template for plug-ins."""
    target = tmp_path_factory.mktemp("installed")
    copy = shutil.copytree(EXAMPLE, target / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", target / "site", copy], check=True, timeout=120
    )
    return target / "site"


def _example(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of this Python's in which the template is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), *sys.path))}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_template_brings_its_parts(installed: Path, tmp_path: Path) -> None:
    for role, kind, setting in (
        ("operator", "ticket_number", "required"),
        ("reward", "polite", "phrases"),
        ("metric", "signed_off", "signature_line"),
    ):
        told = _example(installed, tmp_path, "-m", "luthier", "components", role, kind, "--json")
        assert told.returncode == 0, told.stderr
        assert setting in [one["name"] for one in json.loads(told.stdout)["settings"]]


def test_the_templates_own_tests_pass(installed: Path) -> None:
    done = _example(
        installed, EXAMPLE, "-m", "pytest", "-q", "-o", f"cache_dir={installed / 'cache'}", "-p", "no:randomly", "tests"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_a_recipe_runs_the_templates_operator(installed: Path, tmp_path: Path) -> None:
    small_recipe(tmp_path, RECIPE.replace("ops: [", "ops: [{kind: ticket_number, required: false}, "))
    done = _example(installed, tmp_path, "-m", "luthier", "run", "recipe.yaml", "--only", "data", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(json.loads(done.stdout)["steps"]["data"]["path"])
    assert any("ticket_number" in path.name for path in folder.rglob("*.parquet"))


def test_the_how_to_page_shows_the_templates_code() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "howto" / "plugins.md").read_text()
    block = page.partition("```{code-block} python\n")[2].partition("```")[0]
    assert block
    assert block in (EXAMPLE / "src" / "luthier_contoso" / "rewards.py").read_text()
