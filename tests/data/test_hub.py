"""Data sets of a small hub of our own on the loopback: files of a split, by the card or by their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.row import SourceRecord
from luthier.data.source import Source
from tests.hub import COMMIT, FakeHub, publishing


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    place = tmp_path / "published"
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl", "extra/other.csv", "script.py"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        row = "text,label\nother,x\nmore,y\n" if name.endswith(".csv") else json.dumps({"text": name}) + "\n"
        (place / name).write_text(row)
    (place / "README.md").write_text("# A card\n")
    with publishing(place, "datasets", "acme/rows", monkeypatch, tmp_path / "cache") as served:
        yield served


def _texts(base: Path, **settings: Any) -> list[str]:
    source = Source.parse({"kind": "hub", "name": "acme/rows", "online": True, **settings})
    return [one.values["text"] for one in source.read(base, lambda text: None) if isinstance(one, SourceRecord)]


def test_a_split_by_the_names_of_its_files(hub: type[FakeHub], tmp_path: Path) -> None:
    assert _texts(tmp_path) == ["train-0.jsonl", "train-1.jsonl"]
    assert _texts(tmp_path, split="test") == ["test.jsonl"]
    with pytest.raises(DataError, match="no file is of the split 'dev'") as caught:
        _texts(tmp_path, split="dev")
    assert "train-0.jsonl" in caught.value.hint
    assert not any("script.py" in one for one in hub.asked if "/resolve/" in one)


def test_a_split_by_the_card(hub: type[FakeHub], tmp_path: Path) -> None:
    (hub.place / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files:\n  - {split: train, path: 'train-1*'}\n"
        "- config_name: two\n  data_dir: extra\n  data_files: {train: ['*.csv']}\n---\n# A card\n"
    )
    assert _texts(tmp_path, subset="one") == ["train-1.jsonl"]
    assert _texts(tmp_path, subset="two") == ["other", "more"]
    with pytest.raises(DataError, match="several subsets"):
        _texts(tmp_path)
    with pytest.raises(DataError, match="no subset 'three'"):
        _texts(tmp_path, subset="three")


def test_offline_is_the_default_and_asks_nobody(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not in the local hub cache") as caught:
        _texts(tmp_path, online=False)
    assert "online: true" in caught.value.hint
    source = Source.parse({"kind": "hub", "name": "acme/rows", "online": True})
    assert source.glance(tmp_path) == []
    assert source.size(tmp_path) is None
    assert hub.asked == []
    _texts(tmp_path)
    hub.asked.clear()
    assert _texts(tmp_path, online=False) == ["train-0.jsonl", "train-1.jsonl"]
    assert source.size(tmp_path)
    assert hub.asked == []


def test_what_the_hub_does_not_have_is_said(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the hub has no data set 'acme/none'"):
        _texts(tmp_path, name="acme/none")


def test_passes_over_a_branch_are_made_each_time(hub: type[FakeHub], make: Callable[..., Any], tmp_path: Path) -> None:
    """It may have moved on; a commit never does."""
    source = {"kind": "hub", "name": "acme/rows", "online": True, "answer": "text"}
    for revision, is_taken_over in (("main", False), (COMMIT, True)):
        for is_again in (False, True):
            made = make(source={**source, "revision": revision}, ops=["normalize"], task="text", kept=tmp_path / "kept")
            assert ("reused from an earlier run" in made.notes) is (is_again and is_taken_over)
