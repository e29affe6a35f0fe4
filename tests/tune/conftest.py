"""What tests of trainings share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from luthier.tune.training import parallel


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores, on which even the smallest steps are read side by side."""
    before = torch.get_num_threads()
    monkeypatch.setattr("luthier.tune.run.count_cores", lambda: 2)
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 1)
    monkeypatch.setattr(parallel, "WORTH", 1.0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
