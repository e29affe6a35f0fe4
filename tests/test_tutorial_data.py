"""The page "From a messy export to a training set": its commands are typed, and print what it says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from luthier.cli.app import run_command

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial-data.md").read_text(encoding="utf-8")


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "recipes" / "support" / "tickets.csv", "tickets.csv")
    Path("clean").mkdir()
    blocks = re.findall(r"```(yaml|console)\n(.*?)```", PAGE, re.DOTALL)
    assert [kind for kind, _ in blocks].count("yaml") == 1
    for kind, block in blocks:
        if kind == "yaml":
            Path("clean/recipe.yaml").write_text(block, encoding="utf-8")
            continue
        for command, shown in re.findall(r"^\$ luthier (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            assert run_command(shlex.split(command)) == 0, command
            printed = capsys.readouterr()
            said = printed.out + printed.err
            for line in filter(None, (line.strip() for line in shown.splitlines())):
                assert line == "…" or line in said, f"{command} does not print: {line}"


def test_the_operators_that_the_page_names_exist() -> None:
    from luthier.core.component import components_by_kind
    from luthier.data.operator import Operator

    named = set(re.findall(r"`(?:\{kind: )?([a-z_]+)[`,]", PAGE.split("## Change a setting")[1].split("## Export")[0]))
    assert named <= set(components_by_kind(Operator)) | {"among"}
