"""What the parts do; `luthier` finds them by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest
from luthier_contoso import Polite, SignedOff, TicketNumber

from luthier.chat.messages import Example, ExampleOrigin, Message
from luthier.core.component import components_by_kind
from luthier.data.operator import Operator
from luthier.data.row import Row
from luthier.metrics.metric import Metric
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


def test_luthier_finds_the_parts() -> None:
    assert "ticket_number" in components_by_kind(Operator)
    assert "polite" in components_by_kind(Reward)
    assert "signed_off" in components_by_kind(Metric)


def _example(question: str) -> Example:
    messages = (Message(role="user", content=question), Message(role="assistant", content="Sent."))
    return Example(id="0" * 16, origin=ExampleOrigin(source="test", file="", line=1), kind="chat", messages=messages)


def test_ticket_numbers_are_counted_and_may_be_required() -> None:
    texts = ["CT-123456 and CT-654321 are late", "Where is it?"]
    rows = [Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", _example(text).messages) for n, text in enumerate(texts)]
    assert list(TicketNumber().apply(rows).attributes["ticket_numbers"]) == [2, 0]
    assert list(TicketNumber(required=True).apply(rows).drops) == [1]


def test_a_reward_is_the_share_of_phrases(tmp_path: Path) -> None:
    bench = RewardContext(recipe_dir=tmp_path, kept=tmp_path, models=Path)
    answers = ["Thank you. Please wait.", "Please wait.", "Wait."]
    attempts = [RewardCompletion(_example("Where is it?"), text, tokens=4) for text in answers]
    assert Polite().score(attempts, bench) == [1.0, 0.5, 0.0]


def test_a_metric_has_a_value_and_an_interval() -> None:
    score = SignedOff().measure(["Done.\nContoso Support", "Done."] * 20, ["Done."] * 40)
    assert score.value == pytest.approx(0.5)
    assert 0.3 < score.low < 0.5 < score.high < 0.7
