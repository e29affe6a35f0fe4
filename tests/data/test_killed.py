"""A preparation that is killed at any moment leaves nothing half-written, and the next run makes the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from benchmarks import support_corpus

from luthier.core.artifact import read_manifest
from luthier.core.store import Store
from luthier.data.steps.prepare import MANY_BYTES

RECIPE = """
luthier: 1
name: killed
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: jsonl, path: corpus.jsonl, answer: text}
    ops: [normalize, quality, exact_dedup, near_dedup, language, pii, decontaminate]
    split: {test: 0.1}
    task: text
"""

SEVERAL_PROCESSES = 40_000
"""Rows of a corpus large enough that every processor takes a share."""


def _start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "LUTHIER_CACHE": str(folder / "cache"), "LUTHIER_PII_KEY": "k", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luthier", "run", "recipe.yaml", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def _made(folder: Path) -> dict[str, str]:
    """Digests of the data set's files, when it is there; everything in the store is whole."""
    store = Store(folder / ".luthier")
    assert store.verify() == []
    found = [read_manifest(store.artifacts / digest) for digest in store.digests()]
    return {entry.path: entry.digest for manifest in found for entry in manifest.files}


def _processes_in(folder: Path) -> list[str]:
    """What runs in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def _end_alone(folder: Path) -> None:
    """Wait until the processes beside the killed one have noticed."""
    until = time.monotonic() + 60
    while running := _processes_in(folder):
        assert time.monotonic() < until, running
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kills", "rows"),
    [
        (3, 1500),
        pytest.param(20, 1500, marks=pytest.mark.slow),
        pytest.param(20, SEVERAL_PROCESSES, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(2400)
def test_killed_at_any_moment(tmp_path: Path, kills: int, rows: int) -> None:
    whole, victim = tmp_path / "whole", tmp_path / "victim"
    whole.mkdir()
    (whole / "recipe.yaml").write_text(RECIPE)
    support_corpus.write(whole / "corpus.jsonl", rows)
    assert ((whole / "corpus.jsonl").stat().st_size >= MANY_BYTES) == (rows >= SEVERAL_PROCESSES)
    shutil.copytree(whole, victim)
    started = time.monotonic()
    out, err = _start(whole).communicate(timeout=300)
    took = time.monotonic() - started
    assert json.loads(out)["exit"] == 0, err
    wanted = _made(whole)
    assert "events.parquet" in wanted

    chance = random.Random(kills)
    killed = 0
    while killed < kills:
        process = _start(victim)
        try:
            process.communicate(timeout=chance.uniform(0.3, 1.0) * took)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            _end_alone(victim)
            assert _made(victim) in ({}, wanted)
            continue
        assert _made(victim) == wanted
        shutil.rmtree(victim / ".luthier")
    process = _start(victim)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert _made(victim) == wanted
