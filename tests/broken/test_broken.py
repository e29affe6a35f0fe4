"""Every wrong input gets exit code 2 and one message with its place and what to do; nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from luthier.cli.app import run_command
from luthier.core.store import Store
from tests.broken import (
    data_cases,
    door_cases,
    label_cases,
    model_cases,
    reference_cases,
    score_cases,
    settings_cases,
    yaml_cases,
)
from tests.broken.case import Case
from tests.tiny_models import RECIPE, small_recipe

BY_KIND = {
    "yaml": yaml_cases.CASES,
    "settings": settings_cases.CASES,
    "references": reference_cases.CASES,
    "data": data_cases.CASES,
    "labels": label_cases.CASES,
    "models": model_cases.CASES,
    "scores": score_cases.CASES,
    "doors": door_cases.CASES,
}
CASES = [pytest.param(case, id=f"{kind}-{case.name}") for kind, cases in BY_KIND.items() for case in cases]
BUDGET_S = 5.0
DIGEST = "[0-9a-f]{32}"
SPOTS = {"artifact": f".*/artifacts/{DIGEST}"}
"""Places whose names hold a digest."""


@dataclass(frozen=True)
class Workplace:
    """Folders that are copied for each case."""

    plain: Path
    made: Path
    cache: Path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A small recipe's folder, and another in which it was run; built once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "broken"
    found = Workplace(plain=place / "plain", made=place / "made", cache=place / "cache")
    with FileLock(f"{place}.lock"):
        if not (place / "done").exists():
            _build(found)
            (place / "done").touch()
    return found


def _build(place: Workplace) -> None:
    small_recipe(place.plain)
    shutil.copytree(place.plain, place.made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(place.cache))
        patch.delenv("LUTHIER_STORE", raising=False)
        patch.chdir(place.made)
        assert run_command(["run"]) == 0


def _open_folder(case: Case, workplace: Workplace, tmp_path: Path) -> Path:
    """The folder of a case, with the mistake in it, and a cache beside it that holds the base model."""
    folder = tmp_path / "here"
    shutil.copytree(workplace.cache, tmp_path / "cache")
    shutil.copytree(workplace.made if case.made else workplace.plain, folder)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if case.recipe is None:
        (folder / "recipe.yaml").unlink()
    elif case.recipe != RECIPE:
        (folder / "recipe.yaml").write_bytes(case.recipe.encode() if isinstance(case.recipe, str) else case.recipe)
    if case.before is not None:
        case.before(folder)
    return folder


def _environment(case: Case, folder: Path) -> dict[str, str]:
    own = {name: value.format(folder=folder) for name, value in case.environment.items()}
    return {"LUTHIER_CACHE": str(folder.parent / "cache"), **own}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine's user; faults, if any, are kept where the test looks."""
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_ONLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_input_is_answered(
    case: Case,
    workplace: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = _open_folder(case, workplace, tmp_path)
    monkeypatch.chdir(folder)
    for name, value in _environment(case, folder).items():
        monkeypatch.setenv(name, value)
    before = _finished(folder)
    capsys.readouterr()

    code = run_command(list(case.command))
    _, shown = capsys.readouterr()
    assert code == 2, shown
    if case.as_json:
        assert run_command([*case.command, "--json"]) == 2
        told = json.loads(capsys.readouterr().out)
        _check(case, told, folder)
        _check_shown(case, shown, told["error"])
    assert case.says in shown
    assert case.do in shown
    assert not list(tmp_path.glob("luthier-fault-*"))
    _check_left(case, before, _finished(folder), folder)


def _check(case: Case, told: dict[str, Any], folder: Path) -> None:
    """The documented shape, and the words that were expected."""
    assert set(told) == {"error"}
    error = told["error"]
    assert set(error) == {"kind", "message", "where", "hint"}
    assert set(error["where"]) == {"file", "line", "field"}
    assert error["kind"] == case.kind
    assert case.says in error["message"]
    assert case.do in error["hint"]
    wanted = re.escape(case.at.replace("{folder}", str(folder)))
    for name, pattern in SPOTS.items():
        wanted = wanted.replace(re.escape(f"{{{name}}}"), pattern)
    assert re.fullmatch(wanted, _place(error["where"])), _place(error["where"])


def _place(where: dict[str, Any]) -> str:
    place = where["file"] or ""
    if where["line"] is not None:
        place += f":{where['line']}"
    if where["field"]:
        place += f" ({where['field']})" if place else where["field"]
    return place


def _check_shown(case: Case, shown: str, error: dict[str, Any]) -> None:
    """One message for a person, the same as for a program; a run may tell what it did until then."""
    place = _place(error["where"])
    block = f"error: {f'{place}: ' if place else ''}{error['message']}\n  → {error['hint']}\n"
    plain = re.sub(DIGEST, "DIGEST", shown)
    assert plain.endswith(re.sub(DIGEST, "DIGEST", block))
    assert case.command[0] in ("run", "export") or shown == block
    assert len(re.findall("^error: ", shown, re.MULTILINE)) == 1
    assert "Traceback" not in shown
    assert not any(secret in shown for secret in ("sk-secret", "user:secret"))


def _finished(folder: Path) -> dict[str, str]:
    """Kinds of all finished artifacts, by digest."""
    stores = (Store(folder / ".luthier"), Store(folder.parent / "cache" / "store"))
    return {digest: store.manifest(digest).kind for store in stores for digest in store.digests()}


def _check_left(case: Case, before: dict[str, str], after: dict[str, str], folder: Path) -> None:
    """Nothing counts as done but what rightly is; nothing that was promised is half there."""
    made = {kind for digest, kind in after.items() if digest not in before}
    assert made <= case.leaves
    if case.before is None:
        assert Store(folder / ".luthier").verify() == []
    assert not (folder / "shop").exists()
    assert case.files.get("out") or not (folder / "out").exists() or (folder / "out" / "mine.txt").exists()


PROGRAM = """\
import sys
from luthier.cli.app import run_command
code = run_command(sys.argv[1:])
sys.exit(99 if "torch" in sys.modules else code)
"""
ALONE = [pytest.param(cases[3], id=kind) for kind, cases in BY_KIND.items()] + [
    pytest.param(data_cases.DELIMITED[10], id="row 17")
]


@pytest.mark.matrix("yaml", "references", "row 17")
@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", ALONE)
def test_a_mistake_is_seen_before_torch_is_loaded(case: Case, workplace: Workplace, tmp_path: Path) -> None:
    folder = _open_folder(case, workplace, tmp_path)
    environment = {**os.environ, **_environment(case, folder)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *case.command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    sys.stdout.write(f"{case.name}: answered in {seconds:.1f} s of {BUDGET_S:.0f}\n")
    assert done.returncode == 2, done.stderr
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1


def test_the_corpus_is_large_and_every_case_has_a_name() -> None:
    names = [param.id for param in CASES]
    assert len(names) == len(set(names)) >= 110
