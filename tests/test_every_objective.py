"""What every objective promises: lessons in order, a pure loss that any split adds up to, and learning."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from luthier.core.component import members
from luthier.models.pack import pack, packs
from luthier.text.ids import Text
from luthier.text.messages import Example, Message
from luthier.tune.objective import About, Objective
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from tuning import Bench, bench, chat, examples

OBJECTIVES = members(Objective)
KINDS = sorted(OBJECTIVES)
OTHERWISE: dict[tuple[str, str], Any] = {
    ("sft", "learn"): "all",
    ("sft", "max_tokens"): 60,
    ("sft", "too_long"): "prompt",
    ("sft", "average"): "row",
    ("sft", "weight"): "worth",
    ("classify", "head"): "sequence",
    ("classify", "normalise"): "mean",
    ("classify", "options"): 2,
    ("classify", "max_tokens"): 60,
}
"""Another value for each field, which must change the lessons."""
ABOUT = About(classes={name: name for name in ("account", "billing", "delivery")})
CASES = [*((kind, {}) for kind in KINDS), ("classify", {"head": "sequence"})]
"""Each objective as it is by default, and those of its ways that take another road."""
FIELDS = [(kind, name) for kind in KINDS for name in OBJECTIVES[kind].model_fields if name != "kind"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def text(shop: Bench) -> Text:
    return Text.load(shop.base.folder)


def made(kind: str, **fields: Any) -> Objective:
    return OBJECTIVES[kind].model_validate({"kind": kind, **fields})


def conversation() -> Example:
    """Two turns of each side, and more than any row of tickets."""
    turns = [Message(role="user", content="Where is it? " * 400), Message(role="assistant", content="Here.")]
    return chat("x", "y").model_copy(update={"messages": (*turns, *chat("And my refund?", "billing").messages[1:])})


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    objective = OBJECTIVES[kind]
    assert objective.summary()
    assert all(name == "kind" or field.description for name, field in objective.model_fields.items())
    assert objective.model_json_schema()["properties"]["kind"]["const"] == kind


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_lessons_stand_in_the_order_of_the_examples(kind: str, extra: dict[str, Any], text: Text) -> None:
    given = [*examples(6), conversation()]
    lessons = made(kind, **extra).lessons(given, text, ABOUT)
    assert [lesson.id for lesson in lessons] == [example.id for example in given]
    assert all(bool(lesson.rows) is not bool(lesson.nothing) for lesson in lessons)
    assert all(row.targets for lesson in lessons for row in lesson.rows)


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_loss_is_pure_and_any_split_adds_up(kind: str, extra: dict[str, Any], text: Text) -> None:
    objective = made(kind, **extra)
    lessons = objective.lessons(examples(8), text, ABOUT)
    rows = [replace(row, key=f"{lesson.id} {at}") for lesson in lessons for at, row in enumerate(lesson.rows)]
    assert objective.denominator(rows) > 0
    whole = pack(rows)
    logp = -torch.rand(whole.sources.shape[0], dtype=torch.float64)
    kept = logp.clone()
    total = objective.loss(logp, whole, logp - 0.1).total
    assert torch.equal(logp, kept)
    assert torch.equal(total, objective.loss(logp, whole, logp - 0.1).total)
    parts = torch.zeros((), dtype=torch.float64)
    for part in packs(rows, 60):
        places = [whole.keys.index(key) for key in part.keys]
        mine = torch.cat([logp[whole.path == place] for place in places])
        parts += objective.loss(mine, part, mine - 0.1).total
    torch.testing.assert_close(parts, total)


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_it_learns(kind: str, extra: dict[str, Any], shop: Bench) -> None:
    step = Tune(
        data="data", objective=made(kind, **extra), technique=Lora(r=4), rows_per_step=16, learning_rate=1e-2, epochs=8,
        precision="float32",
    )  # fmt: skip
    artifact = shop.tune(step)
    losses = [json.loads(line)["loss"] for line in (artifact.folder / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str, text: Text) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    given = [one.model_copy(update={"meta": {"worth": 2.0}}) for one in (*examples(6), conversation())]
    limit = {"too_long": {"max_tokens": 1200}, "learn": {"max_tokens": 1 << 14}}.get(name, {})
    one = made(kind, **limit).lessons(given, text, ABOUT)
    assert one != made(kind, **{**limit, name: OTHERWISE[kind, name]}).lessons(given, text, ABOUT)
