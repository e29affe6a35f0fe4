"""What a site keeps between rounds: a round that is computed again begins with what was there before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luthier.core.errors import CorruptArtifact
from luthier.federated.sites.state import SiteState


def test_a_round_begins_with_the_state_before_it(tmp_path: Path) -> None:
    state = SiteState(tmp_path)
    assert state.read(1) == (0, {})
    for number in (1, 2, 5, 10):
        state.write(number, {"own/a": torch.full((2,), float(number))})
    assert state.read(11).tensors["own/a"].tolist() == [10.0, 10.0]
    assert state.read(10).round == 5, "as if round 10 had not been computed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-10", "state-5"]
    assert (tmp_path / "state-10").stat().st_mode & 0o077 == 0


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    state = SiteState(tmp_path)
    state.write(1, {"own/a": torch.ones(3)})
    path = tmp_path / "state-1"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match="differs from what was written"):
        state.read(2)
