"""The pairs that a search for near copies compares are foretold from a sample, with bounded work."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import pytest

from luthier.chat.messages import Message
from luthier.core.step import PlanContext
from luthier.data.dedup import pair_estimate
from luthier.data.dedup.pair_estimate import SAMPLE_ROWS, VERIFIED_PAIRS, PairRates
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.near_dedup import NearDedup, TextShingles
from luthier.data.row import Row
from luthier.data.steps.prepare import Prepare

KINDS = ("distinct", "copies", "groups", "almost")


def _texts(kind: str, count: int) -> list[str]:
    """Texts of 30 words: distinct; one text with a changed word; texts of 15 groups with two or three changed words."""
    chance = random.Random(kind)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(3000)]
    bases = [chance.choices(words, k=30) for _ in range({"distinct": count, "copies": 1}.get(kind, 15))]
    found = []
    for index in range(count):
        text = list(bases[index] if kind == "distinct" else chance.choice(bases))
        for _ in range({"distinct": 0, "copies": 1, "groups": 2, "almost": 3}[kind]):
            text[chance.randrange(30)] = chance.choice(words)
        found.append(" ".join(text))
    return found


def _row(number: int, text: str) -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content="ok"))
    return Row(number, f"{number:016x}", "jsonl", "f", number, "completion", messages)


@pytest.mark.parametrize("action", ["drop", "flag"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_from_half_is_within_a_factor_of_two(
    kind: str, action: Literal["drop", "flag"], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = NearDedup(action=action)
    rows = [_row(number, text) for number, text in enumerate(_texts(kind, 600))]
    compared = set[tuple[str, str]]()
    similarity = NearDedup.similarity

    def count(self: NearDedup, one: TextShingles, two: TextShingles) -> float:
        compared.add((one.text, two.text))
        return similarity(self, one, two)

    monkeypatch.setattr(NearDedup, "similarity", count)
    rates, different = operator.measure_rates(len(rows), random.Random(0).sample(rows, 300))
    estimate = rates.count_pairs(different, drop=action == "drop")
    assert len(compared) <= VERIFIED_PAIRS
    compared.clear()
    operator.settle(InMemoryRows(operator, rows))
    made = len(compared)
    assert estimate == made == 0 if kind == "distinct" else made / 2 <= estimate <= 2 * made, (estimate, made)


def test_close_copies_cost_one_comparison_a_row_and_rows_that_are_almost_twins_one_with_each_other() -> None:
    assert PairRates(alike=1.0, twins=1.0).count_pairs(1000, drop=True) == pytest.approx(2000, rel=0.01)
    assert PairRates(alike=1.0, twins=0.0).count_pairs(1000, drop=True) == pytest.approx(1000 * 1000 / 2, rel=0.01)
    assert PairRates(alike=0.0, twins=0.0).count_pairs(1000, drop=True) == 0
    rates = PairRates(alike=0.5, twins=0.02)
    assert rates.count_pairs(1000, drop=True) < rates.count_pairs(1000, drop=False) < 1000 / 0.02 + 1000


def test_the_plan_says_that_near_copies_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is bounded however many rows there are."""
    seen = []
    measure = pair_estimate.measure_pair_rates
    monkeypatch.setattr(
        "luthier.data.ops.near_dedup.measure_pair_rates",
        lambda signatures, *more: (seen.append(len(signatures)), measure(signatures, *more))[1],
    )
    plans = {}
    for kind in ("distinct", "almost"):
        lines = [json.dumps({"prompt": text, "answer": "ok"}) for text in _texts(kind, 2000)]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
        source = {"kind": "jsonl", "path": f"{kind}.jsonl", "prompt": "prompt", "answer": "answer"}
        step = Prepare.model_validate({"source": source, "ops": ["exact_dedup", "near_dedup"]})
        plans[kind] = step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path))
    assert "near_dedup" not in plans["distinct"].how
    assert "for near_dedup over pairs of rows" in plans["almost"].how
    assert (plans["almost"].seconds or 0) > (plans["distinct"].seconds or 0) + 1
    assert seen
    assert max(seen) <= SAMPLE_ROWS
