"""Documentation pages: the wheel carries them, and what recipes and help point to is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.commands.manual import load_manual_pages

ROOT = Path(__file__).parents[2]


def test_every_page_that_the_program_points_to_is_there() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "recipes").rglob("recipe.yaml")]
    told = {(path.name, name) for path in sources for name in re.findall(r"`luthier docs ([\w-]+)`", path.read_text())}
    assert len(told) >= 3
    assert [pair for pair in told if pair[1] not in load_manual_pages()] == []


def test_no_recipe_points_to_a_file_of_the_checkout() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.yaml")]:
        assert "docs/howto" not in path.read_text(), path


def test_pages_are_listed_printed_and_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["docs", "--json"]) == 0
    listed = {one["page"]: one["title"] for one in json.loads(capsys.readouterr().out)["pages"]}
    assert listed["serve"] == (ROOT / "docs" / "howto" / "serve.md").read_text().splitlines()[0].lstrip("# ")
    assert run_command(["docs", "serve"]) == 0
    assert capsys.readouterr().out.strip() == (ROOT / "docs" / "howto" / "serve.md").read_text().strip()
    assert run_command(["docs", "--search", "entry point luthier.parts", "--json"]) == 0
    assert [one["page"] for one in json.loads(capsys.readouterr().out)["pages"]] == ["plugins"]
    assert run_command(["docs", "serv"]) == 2
    assert "'serve'" in capsys.readouterr().err


def test_the_wheel_carries_them(tmp_path: Path) -> None:
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", tmp_path, ROOT], check=True, timeout=240)
    with zipfile.ZipFile(next(tmp_path.glob("luthier-*.whl"))) as wheel:
        carried = {Path(name).stem for name in wheel.namelist() if name.startswith("luthier/manual/")}
    assert set(load_manual_pages()) <= carried
