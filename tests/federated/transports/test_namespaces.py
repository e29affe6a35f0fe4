"""Sites and a coordinator that see one another over a bridge alone, a link of which goes down in a round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOT_POSSIBLE = 77


@pytest.mark.slow
def test_a_link_that_goes_down_in_a_round_changes_no_byte(tmp_path: Path) -> None:
    import federation_namespaces

    command = [sys.executable, federation_namespaces.__file__, str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if ended.returncode == NOT_POSSIBLE:
        pytest.skip(f"this machine makes no network namespaces: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["same"], "the bytes of a federation whose network was whole"
    assert "nothing was lost: it is tried again" in found["said"]
    numbers = {name: [number for number, _ in answers] for name, answers in found["answered"].items()}
    assert numbers == {name: [0, 1, 2, 3, 4] for name in ("north", "south")}, "each message has one answer"
