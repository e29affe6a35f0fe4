"""Features of frozen towers on the disk: found by later runs, safe under kills and other writers, bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from luthier.models.media import feature_files
from luthier.models.media.feature_files import FeatureFiles, name_tower
from tests import ready

WRITER = """
import sys
from pathlib import Path
import torch
from luthier.models.media.feature_files import FeatureFiles

files = FeatureFiles(Path(sys.argv[1]), "tower")
print("ready", flush=True)
number = 0
while True:
    key = f"{number % 40:064x}"
    files.write(key, [torch.full((64, 64), float(number % 40)), torch.ones(3)])
    number += 1
"""


def keys(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "tower")
    tensors = [torch.randn(3, 4).bfloat16(), torch.randn(3, 4, dtype=torch.float64)]
    files.write(keys(1)[0], tensors)
    found = FeatureFiles(tmp_path, "tower").read(keys(1)[0])
    assert found is not None
    assert all(torch.equal(one, other) for one, other in zip(found, tensors, strict=True))
    assert FeatureFiles(tmp_path, "another").read(keys(1)[0]) is None
    assert files.read(keys(2)[1]) is None


@pytest.mark.parametrize("harm", [lambda content: content[:40], lambda content: content[:-1] + b"x", lambda _: b""])
def test_what_is_damaged_is_made_anew(tmp_path: Path, harm: object) -> None:
    files = FeatureFiles(tmp_path, "tower")
    files.write(keys(1)[0], [torch.ones(9)])
    (path,) = tmp_path.glob("tower/*/*")
    path.write_bytes(harm(path.read_bytes()))  # type: ignore[operator]
    assert files.read(keys(1)[0]) is None
    files.write(keys(1)[0], [torch.ones(9)])
    assert files.read(keys(1)[0]) is not None


def test_there_is_a_limit_and_the_oldest_go_when_a_process_begins(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "tower", 20_000)
    for at, key in enumerate(keys(9)):
        files.write(key, [torch.zeros(1000)])
        if (path := tmp_path / "tower" / "00" / key).is_file():
            os.utime(path, (at, at))
    assert [files.read(key) is not None for key in keys(9)] == [True] * 4 + [False] * 5
    for at, key in enumerate(keys(4)):
        os.utime(tmp_path / "tower" / "00" / key, (at, at))
    smaller = FeatureFiles(tmp_path, "tower", 10_000)
    assert [smaller.read(key) is not None for key in keys(4)] == [False, False, False, True]


def test_other_weights_are_another_tower(tmp_path: Path) -> None:
    one = torch.nn.Linear(3, 3)
    name = name_tower([one], one, "processor")
    assert name_tower([one], one, "processor") == name
    assert name_tower([one], one, "another") != name
    with torch.no_grad():
        one.bias[0] += 1e-6
    assert name_tower([one], one, "processor") != name


def test_writers_that_are_killed_leave_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes write the same keys at once, and are killed in the midst of it, again and again."""
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writers = [ready.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(0.2)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    monkeypatch.setattr(feature_files, "_STALE_S", -1.0)
    files = FeatureFiles(tmp_path, "tower")
    assert not list(tmp_path.glob("tower/*/.*")), "what was half written is removed"
    whole = [(number, found) for number, key in enumerate(keys(40)) if (found := files.read(key)) is not None]
    assert whole
    assert all(torch.equal(found[0], torch.full((64, 64), float(number))) for number, found in whole)
    assert len(whole) == len(list(tmp_path.glob("tower/*/*"))), "none is damaged"
