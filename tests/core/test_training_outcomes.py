"""Outcomes are remembered as numbers, bounded, and what is spoilt is left out with a note."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.core.training_outcomes import KEPT, TrainingOutcome, get_outcomes_path, read_outcomes, record_outcomes


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def outcome(digest: str = "a", metric: str = "accuracy", value: float = 0.8) -> TrainingOutcome:
    return TrainingOutcome(
        digest=digest, task="label", train_rows=200, classes=5, prompt_words=12, technique="lora",
        settings={"epochs": 4.0, "learning_rate": "auto"}, metric=metric, value=value, low=0.7, high=0.9, rows=100,
        plain=0.7,
    )  # fmt: skip


def test_what_is_recorded_is_read_newest_first_and_once() -> None:
    assert read_outcomes() == ((), "")
    record_outcomes([outcome("a")])
    record_outcomes([outcome("b"), outcome("b", "macro_f1")])
    record_outcomes([outcome("a", value=0.9)])
    found = read_outcomes()
    assert [(one.digest, one.metric, one.value) for one in found.records] == [
        ("a", "accuracy", 0.9), ("b", "accuracy", 0.8), ("b", "macro_f1", 0.8)
    ]  # fmt: skip
    assert not found.note


def test_the_memory_is_bounded() -> None:
    record_outcomes([outcome(f"{number}") for number in range(KEPT + 20)])
    record_outcomes([outcome("new")])
    found = read_outcomes().records
    assert len(found) == KEPT
    assert found[0].digest == "new"


@pytest.mark.parametrize(
    "content",
    [
        b"{not json", b"\xff\xfe\x00", b"{}", b"[" * 100_000, b"null", b'"x"', b" " * 2_000_000,
        b"cos\nsystem\n(S'echo x'\ntR.",
    ],
)  # fmt: skip
def test_a_spoilt_memory_is_said_and_not_believed(content: bytes) -> None:
    get_outcomes_path().parent.mkdir(parents=True)
    get_outcomes_path().write_bytes(content)
    found = read_outcomes()
    assert found.records == ()
    assert str(get_outcomes_path()) in found.note
    record_outcomes([outcome()])
    assert len(read_outcomes().records) == 1


def test_records_that_are_not_as_written_are_left_out_one_by_one() -> None:
    good = outcome().model_dump(mode="json")
    bad = [
        {**good, "value": 2}, {**good, "value": "NaN"}, {**good, "text": "hello"}, {**good, "train_rows": 0}, 7, None,
        {**good, "technique": "x" * 1000},
    ]  # fmt: skip
    get_outcomes_path().parent.mkdir(parents=True)
    get_outcomes_path().write_text(json.dumps([good, *bad]))
    found = read_outcomes()
    assert [one.digest for one in found.records] == ["a"]
    assert f"{len(bad)} of {len(bad) + 1} outcomes" in found.note


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "file"))
    record_outcomes([outcome()])
    assert read_outcomes().records == ()
