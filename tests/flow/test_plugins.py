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

from tests.workshop import RECIPE, own_cache, small_recipe

OPERATOR = '''
from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.data.operator import Drop, Outcome, RowOperator
from luthier.data.row import Row


class Louder(RowOperator):
    """Leave parcels out."""

    kind: Literal["louder"] = "louder"
    reads: ClassVar[tuple[str, ...]] = ("answer",)

    def apply(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for place, row in enumerate(rows):
            if row.answer == "delivery":
                outcome.drops[place] = Drop("is LOUD")
        return outcome
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package `louder` that brings an operator; a file, as the smallest have it."""
    site = tmp_path / "site"
    (site / "louder-1.0.dist-info").mkdir(parents=True)
    (site / "louder.py").write_text(OPERATOR)
    (site / "louder-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: louder\nVersion: 1.0\n")
    (site / "louder-1.0.dist-info" / "entry_points.txt").write_text("[luthier.parts]\nlouder = louder\n")
    return site


def _data(folder: Path, site: Path) -> dict[str, Any]:
    """What a run says of the data set that it made or found."""
    paths = os.pathsep.join((str(site), *sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "LUTHIER_CACHE": own_cache(folder)}
    command = [sys.executable, "-m", "luthier", "run", "recipe.yaml", "--only", "data", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
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
        told = _example(installed, tmp_path, "-m", "luthier", "parts", role, kind, "--json")
        assert told.returncode == 0, told.stderr
        assert setting in [one["name"] for one in json.loads(told.stdout)["settings"]]


def test_the_templates_own_tests_pass(installed: Path) -> None:
    done = _example(installed, EXAMPLE, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "tests")
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
