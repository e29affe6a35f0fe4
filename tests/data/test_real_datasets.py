"""The same on real data from beside the repository; skipped, saying so, where it is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.commands.recipe_text import render_recipe
from luthier.data.suggest.propose import propose_recipe

Make = Callable[..., Any]
pytestmark = pytest.mark.data


def test_banking77(make: Make, real_data: Path) -> None:
    made = make(
        base=real_data,
        source={"kind": "csv", "path": "banking77/train.csv", "prompt": "text", "answer": "category"},
        ops=["normalize", "pii", "language", "exact_dedup", "near_dedup"],
        split={"test": 1000},
    )
    summary = made.summary
    assert summary.rows_in == 10_003
    assert len(summary.labels) == 77
    assert summary.rows["test"] == 1000
    assert summary.dropped["near duplicate"] > 50
    plain = pl.read_csv(real_data / "banking77" / "train.csv")
    raw = (real_data / "banking77" / "train.csv").read_bytes().split(b"\n")
    for row in made.split("test").head(200).iter_rows(named=True):
        assert raw[row["line"] - 1].startswith(b'"') or row["label"].encode() in raw[row["line"] - 1]
    assert set(plain["category"]) == set(summary.labels)


def test_bitext(make: Make, real_data: Path) -> None:
    path = "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv"
    made = make(
        base=real_data,
        source={"kind": "csv", "path": path, "prompt": "instruction", "answer": "response", "group": "intent"},
        ops=["normalize", "pii", "quality", "exact_dedup"],
        split={"test": 0.2},
    )
    assert made.summary.task == "text"
    assert made.summary.rows_in == 4514
    groups = {name: set(made.split(name)["group"]) for name in made.summary.rows}
    assert not groups["train"] & groups["test"]


@pytest.mark.parametrize(
    ("file", "answer"),
    [
        ("banking77/train.csv", "category"),
        ("bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv", "category"),
        ("bitext_intents/Bitext_Sample_Customer_Service_Training_Dataset.csv", "category"),
        ("gsm8k/test.jsonl", "answer"),
        ("dialogsum/dialogsum.dev.jsonl", "summary"),
    ],
)
def test_proposals(real_data: Path, file: str, answer: str) -> None:
    proposal = propose_recipe(real_data / file)
    assert proposal.source["answer"] == answer
    assert "luthier: 1" in render_recipe(proposal, "mine")
