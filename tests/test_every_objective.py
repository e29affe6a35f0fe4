"""What every objective promises: lessons in order, a pure loss that any split adds up to, and learning."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from luthier.core.component import members
from luthier.models.load import open_folder
from luthier.models.logprobs import logprobs
from luthier.models.pack import Row, packs
from luthier.models.sequence import with_outputs
from luthier.text.ids import Text
from luthier.text.messages import Example, Message
from luthier.tune.objective import About, Objective, Teacher
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
    ("distil", "divergence"): "reverse",
    ("distil", "beta"): 0.7,
    ("distil", "top_k"): 3,
    ("distil", "temperature"): 2.0,
    ("distil", "alpha"): 0.5,
    ("distil", "logits"): "live",
    ("distil", "rows"): {"average": "row"},
}
"""Another value for each field, which must change the lessons or the loss."""
ABOUT = About(classes={name: name for name in ("account", "billing", "delivery")})
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS), ("classify", {"head": "sequence"}), ("distil", {"logits": "live"}),
]  # fmt: skip
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


def student(objective: Objective, shop: Bench) -> Any:
    """A model with the head that an objective needs, in float64; a new head begins at zero, so it is moved."""
    model = open_folder(shop.base.folder, torch.float64)
    if outputs := objective.outputs(ABOUT):
        model = with_outputs(model, outputs)
        torch.manual_seed(0)
        torch.nn.init.normal_(model.score.weight)
    return model


def teacher(shop: Bench) -> Teacher:
    return Teacher(open_folder(shop.teacher.folder, torch.float64), 400)


def read(objective: Objective, rows: list[Row], shop: Bench, tokens: int) -> torch.Tensor:
    """The loss over some rows in packs of so many tokens, undivided."""
    model, other = student(objective, shop), teacher(shop) if objective.needs_teacher else None
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for part in packs(rows, tokens):
            made_ready = objective.ready(part, other)
            logp = logprobs(model, made_ready)
            kept = logp.clone()
            loss = objective.loss(logp, made_ready, None).total
            assert torch.equal(logp, kept)
            assert torch.equal(loss, objective.loss(logp, made_ready, None).total)
            total += loss
    return total


def rows_of(objective: Objective, given: list[Example], text: Text) -> list[Row]:
    return [row for lesson in objective.lessons(given, text, ABOUT) for row in lesson.rows]


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_loss_is_pure_and_any_split_adds_up(kind: str, extra: dict[str, Any], text: Text, shop: Bench) -> None:
    objective = made(kind, **extra)
    rows = rows_of(objective, examples(8), text)
    assert objective.denominator(rows) > 0
    assert len(packs(rows, 60)) > 1
    torch.testing.assert_close(read(objective, rows, shop, 60), read(objective, rows, shop, 1 << 14))


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_it_learns(kind: str, extra: dict[str, Any], shop: Bench) -> None:
    step = Tune(
        data="data", objective=made(kind, **extra), technique=Lora(r=4), rows_per_step=16, learning_rate=1e-2, epochs=8,
        precision="float32", teacher="teacher" if OBJECTIVES[kind].needs_teacher else None,
    )  # fmt: skip
    artifact = shop.tune(step)
    losses = [json.loads(line)["loss"] for line in (artifact.folder / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < sum(losses[:3])


def effect(objective: Objective, text: Text, shop: Bench) -> tuple[Any, ...]:
    """All that an objective's settings may change: lessons, loss, and whether the teacher is asked beforehand."""
    given = [one.model_copy(update={"meta": {"worth": 2.0}}) for one in (*examples(6), conversation())]
    rows = rows_of(objective, given[:6], text)
    loss = float(read(objective, rows, shop, 1 << 14)) if rows else 0.0
    return objective.lessons(given, text, ABOUT), loss, objective.stored


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str, text: Text, shop: Bench) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    beside: dict[str, dict[str, Any]] = {
        "too_long": {"max_tokens": 1200}, "learn": {"max_tokens": 1 << 14}, "beta": {"divergence": "skewed"},
    }  # fmt: skip
    with_it = beside.get(name, {})
    other = made(kind, **{**with_it, name: OTHERWISE[kind, name]})
    assert effect(made(kind, **with_it), text, shop) != effect(other, text, shop)
