"""A model that is dropped for another is collected at once where its weights are large, and only there."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from luthier.models.lm import local
from luthier.models.lm.local import ModelCache
from tuning import make_env


@pytest.mark.parametrize(("large_bytes", "expected"), [(64 << 20, 0), (0, 1)])
def test_only_a_large_model_is_collected_when_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int, expected: int
) -> None:
    base = make_env(tmp_path).base
    monkeypatch.setattr(local, "_LARGE_BYTES", large_bytes)
    cache = ModelCache()
    calls: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append(1))
    cache.load(base, "float32")
    assert not calls, "nothing was dropped"
    cache.load(base, "float32")
    cache.load(base, "bfloat16")
    assert len(calls) == expected
