"""`recipes/watch`: the whole circle on real questions, by the commands that its README tells a person to type."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact

ROOT = Path(__file__).parent.parent
BANKING = ROOT.parent / "shared" / "data" / "banking77"
LUTHIER = [sys.executable, "-m", "luthier"]
WAIT_S = 3000
PROMISED = re.compile(r"(\d+) of (\d+) questions")


@pytest.fixture
def place(tmp_path: Path, smollm2: Artifact) -> Path:
    """The recipe's folder, without what others made there."""
    assert smollm2.manifest.makes == "model"
    if not BANKING.exists():
        pytest.skip("the real data set banking77 is not beside the repository (shared/data/banking77)")
    others = shutil.ignore_patterns(".luthier", "old.csv", "desk-*")
    return Path(shutil.copytree(ROOT / "recipes" / "watch", tmp_path / "watch", ignore=others))


def commands(page: str) -> list[str]:
    """What a README's blocks of `sh` tell a person to type."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@contextmanager
def going(words: str, env: Mapping[str, str], place: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command in the background, and the file into which it says what happens; told to stop at the end."""
    said = place / f"{words.split()[1]}.out"
    with said.open("wb") as out, said.with_suffix(".err").open("wb") as beside:
        process = subprocess.Popen(_words(words), cwd=place, env=env, stdout=out, stderr=beside)
        try:
            yield process, said
        finally:
            process.terminate()  # as Ctrl-C, which shells take from what they start in the background
            process.wait(60)


def _words(line: str) -> list[str]:
    first, *rest = shlex.split(line)
    return [*LUTHIER, *rest] if first == "luthier" else [sys.executable, *rest]


def waited(said: Path, for_what: str, process: subprocess.Popen[bytes]) -> str:
    """What a command said, once it has said something."""
    end = time.monotonic() + WAIT_S
    while for_what not in (told := said.read_text(encoding="utf-8")):
        assert process.poll() is None, said.with_suffix(".err").read_text(encoding="utf-8")[-2000:]
        assert time.monotonic() < end, told
        time.sleep(0.5)
    return told


def right(told: str) -> float:
    """The share of questions that went to the right queue."""
    found = PROMISED.search(told)
    assert found is not None
    return int(found[1]) / int(found[2])


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.data
@pytest.mark.timeout(4000)  # two trainings, however busy the machine is
def test_the_circle_closes_on_real_questions(place: Path) -> None:
    typed = commands((place / "README.md").read_text(encoding="utf-8"))
    env = {**os.environ, "BANKING": str(BANKING), "PYTHONUNBUFFERED": "1"}
    env.pop("LUTHIER_TRAFFIC", None)

    def type_in(line: str) -> str:
        assert line in typed, f"the README does not say so: {line}"
        done = subprocess.run(_words(line), cwd=place, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    type_in("python customers.py prepare")
    assert "gate PASS: accuracy > base" in type_in("luthier run first.yaml")
    type_in("luthier release desk@prod first.yaml:tune")
    background = [line.removesuffix("&").strip() for line in typed if line.endswith("&")]
    with going(f"{background[0]} --port 0 --json", env, place) as (server, listening):
        env["SERVED"] = json.loads(waited(listening, "\n", server))["url"]
        with going(background[1], env, place) as (watcher, happened):
            waited(happened.with_suffix(".err"), "watching", watcher)
            before = right(type_in("python customers.py ask old 60"))
            shifted = right(type_in("python customers.py ask new 240"))
            told = waited(happened, "released:", watcher)
        time.sleep(3)
        after = right(type_in("python customers.py ask later 100"))
    assert "shift" in told
    assert "critical: wrong (desk)" in told
    assert "gate PASS: accuracy > against" in told
    assert "released: desk@prod is desk-2:tune" in told
    assert shifted < before - 0.2, "the shift is a real one"
    assert after > shifted + 0.2, "and what was said of it is learnt"
    history = type_in("luthier release history desk@prod")
    assert len(history.strip().splitlines()) == 2
