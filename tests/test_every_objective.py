"""What every objective promises: training examples in order, a pure loss that any split adds up to, and learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from documented import undescribed
from luthier.chat.messages import Example, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_packs
from luthier.models.sequence_head import add_sequence_head
from luthier.tune.objective import REFERENCE, Objective, ObjectiveContext, Teacher
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums, compute_row_logprobs
from tuning import TuneEnv, chat, examples, make_env, pairs, thumbs, tune_and_resume

OBJECTIVES = {kind: part for kind, part in components_by_kind(Objective).items() if not part.draws}
"""Those that learn from their own answers have a suite of their own: `test_every_policy.py`."""
KINDS = sorted(OBJECTIVES)
OTHERWISE: dict[tuple[str, str], Any] = {
    ("sft", "train_on"): "all",
    ("sft", "max_length"): 60,
    ("sft", "truncation"): "prompt",
    ("sft", "average"): "row",
    ("sft", "weight"): "worth",
    ("classify", "head"): "sequence",
    ("classify", "normalize"): "mean",
    ("classify", "options"): 2,
    ("classify", "max_length"): 60,
    ("distil", "divergence"): "reverse",
    ("distil", "beta"): 0.7,
    ("distil", "top_k"): 3,
    ("distil", "temperature"): 2.0,
    ("distil", "alpha"): 0.5,
    ("distil", "logits"): "live",
    ("distil", "rows"): {"average": "row"},
    ("dpo", "loss_type"): "hinge",
    ("dpo", "beta"): 0.5,
    ("dpo", "label_smoothing"): 0.2,
    ("dpo", "normalize"): "mean",
    ("dpo", "rpo_alpha"): 1.0,
    ("dpo", "max_length"): 60,
    ("simpo", "beta"): 1.0,
    ("simpo", "gamma"): 0.2,
    ("simpo", "cpo_alpha"): 1.0,
    ("simpo", "max_length"): 60,
    ("cpo", "loss_type"): "hinge",
    ("cpo", "beta"): 0.5,
    ("cpo", "label_smoothing"): 0.2,
    ("cpo", "cpo_alpha"): 0.0,
    ("cpo", "max_length"): 60,
    ("orpo", "weight"): 0.5,
    ("orpo", "max_length"): 60,
    ("kto", "loss_type"): "apo_zero",
    ("kto", "beta"): 0.5,
    ("kto", "desirable_weight"): 2.0,
    ("kto", "undesirable_weight"): 2.0,
    ("kto", "label"): "verdict",
    ("kto", "max_length"): 60,
    ("reward", "head"): "verdict",
    ("reward", "verdict"): {"rubric": "Is it kind?"},
    ("reward", "margin"): "worth",
    ("reward", "scale"): 2.0,
    ("reward", "ties"): "learn",
    ("reward", "center"): 0.1,
    ("reward", "max_length"): 60,
}
"""Another value for each field, which must change the examples or the loss."""
ABOUT = ObjectiveContext(classes={name: name for name in ("account", "billing", "delivery")})
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS), ("classify", {"head": "sequence"}), ("distil", {"logits": "live"}),
    *(("dpo", {"loss_type": form}) for form in ("ipo", "hinge", "apo_zero", "apo_down")),
    ("kto", {"loss_type": "apo_zero"}),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.1, "rpo_alpha": 1.0}),
    ("reward", {"margin": "row", "ties": "learn"}), ("reward", {"head": "verdict", "margin": "row", "ties": "learn"}),
]  # fmt: skip
"""Each objective as it is by default, and those of its ways that take another road."""
TRAINED = [pytest.param(*case, marks=[pytest.mark.slow] * ("loss_type" in case[1])) for case in CASES]
"""Those that are trained: the quick suite looks at another formula's loss and gradients alone."""
READS: dict[str, Callable[[int], list[Example]]] = {
    **dict.fromkeys(KINDS, examples), **dict.fromkeys(("dpo", "simpo", "cpo", "orpo", "reward"), pairs), "kto": thumbs
}  # fmt: skip
"""What each objective learns from: single answers, pairs of a preferred and another, or answers with a yes or no."""
FIELDS = [(kind, name) for kind in KINDS for name in OBJECTIVES[kind].model_fields if name != "kind"]


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, TuneEnv]:
    return {reads: make_env(tmp_path_factory.mktemp("shop"), reads(48)) for reads in set(READS.values())}


@pytest.fixture
def env(shops: dict[Any, TuneEnv], request: pytest.FixtureRequest) -> TuneEnv:
    """A bench with the data that the objective under test learns from."""
    return shops[READS[request.getfixturevalue("kind")]]


@pytest.fixture(scope="module")
def text(shops: dict[Any, TuneEnv]) -> ChatTokenizer:
    return ChatTokenizer.load(shops[examples].base.folder)


def made(kind: str, **fields: Any) -> Objective:
    return OBJECTIVES[kind].model_validate({"kind": kind, **fields})


def conversation(kind: str) -> Example:
    """Two turns of each side, and more than any row of tickets."""
    turns = [Message(role="user", content="Where is it? " * 400), Message(role="assistant", content="Here.")]
    long = chat("x", "y").model_copy(update={"messages": (*turns, *chat("And my refund?", "billing").messages[1:])})
    return (
        long.model_copy(update={"meta": {"rejected": "delivery", "label": True, "row": 1}})
        if READS[kind] != examples
        else long
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    objective = OBJECTIVES[kind]
    assert objective.summary()
    assert undescribed(objective) == []
    assert objective.model_json_schema()["properties"]["kind"]["const"] == kind


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_training_examples_stand_in_the_order_of_the_data(
    kind: str, extra: dict[str, Any], text: ChatTokenizer
) -> None:
    given = [*READS[kind](6), conversation(kind)]
    dataset = made(kind, **extra).build_training_examples(given, text, ABOUT)
    assert [features.id for features in dataset] == [example.id for example in given]
    assert all(bool(features.rows) is not bool(features.nothing) for features in dataset)
    assert all(row.targets for features in dataset for row in features.rows)


def student(objective: Objective, env: TuneEnv) -> Any:
    """A model with the head that an objective needs, in float64; a new head begins at zero, so it is moved."""
    model = open_folder(env.base.folder, torch.float64)
    if outputs := objective.outputs(ABOUT):
        model = add_sequence_head(model, outputs)
        torch.manual_seed(0)
        torch.nn.init.normal_(model.score.weight)
    return model


def teacher(env: TuneEnv) -> Teacher:
    return Teacher(open_folder(env.teacher.folder, torch.float64), 400)


def referred(objective: Objective, rows: list[TokenRow], env: TuneEnv) -> list[TokenRow]:
    """The rows with what another model than the student finds of them, when the objective asks for a reference."""
    if not objective.needs_reference:
        return rows
    found = compute_row_logprobs(teacher(env).model, rows, 1 << 14)
    return [
        replace(row, token_values={**row.token_values, REFERENCE: own}) for row, own in zip(rows, found, strict=True)
    ]


def read(
    objective: Objective, rows: list[TokenRow], env: TuneEnv, tokens: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss over some rows in packs of so many tokens, undivided, and its gradient."""
    model, other = student(objective, env), teacher(env) if objective.needs_teacher else None
    total = torch.zeros((), dtype=torch.float64)
    rows = objective.prepare_rows(
        referred(objective, rows, env), lambda some: compute_row_logprob_sums(model, some, tokens)
    )
    assert objective.denominator(rows) > 0
    for part in build_packs(rows, tokens):
        made_ready = objective.ready(part, other)
        logp = compute_pack_logprobs(model, made_ready)
        kept, reference = logp.detach().clone(), made_ready.token_values.get(REFERENCE)
        loss = objective.loss(logp, made_ready, reference).total
        assert torch.equal(logp.detach(), kept)
        assert torch.equal(loss, objective.loss(logp, made_ready, reference).total)
        loss.backward()
        total += loss.detach()
    return total, [one.grad for one in model.parameters() if one.grad is not None]


def rows_of(objective: Objective, given: list[Example], text: ChatTokenizer) -> list[TokenRow]:
    return [row for features in objective.build_training_examples(given, text, ABOUT) for row in features.rows]


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_loss_is_pure_and_any_split_adds_up(
    kind: str, extra: dict[str, Any], text: ChatTokenizer, env: TuneEnv
) -> None:
    objective = made(kind, **extra)
    rows = rows_of(objective, READS[kind](8), text)
    assert len(build_packs(rows, 60)) > 1
    found, wanted = read(objective, rows, env, 60), read(objective, rows, env, 1 << 14)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], atol=1e-5, rtol=1e-4)  # norms are in fp32


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_share_of_an_example_is_that_of_its_rows_alone(
    kind: str, extra: dict[str, Any], text: ChatTokenizer, env: TuneEnv
) -> None:
    """Its value and its gradient, which a bound for each example or an influence needs."""
    objective, model = made(kind, **extra), student(made(kind, **extra), env)
    other = teacher(env) if objective.needs_teacher else None
    rows = objective.prepare_rows(
        referred(objective, rows_of(objective, READS[kind](4), text), env),
        lambda some: compute_row_logprob_sums(model, some, 1 << 14),
    )

    def shares(some: list[TokenRow]) -> dict[str, tuple[torch.Tensor, list[torch.Tensor]]]:
        (pack,) = (objective.ready(part, other) for part in build_packs(some, 1 << 14))
        loss = objective.loss(compute_pack_logprobs(model, pack), pack, pack.token_values.get(REFERENCE))
        each = loss.by_example(pack)
        torch.testing.assert_close(each.sum(), loss.total)
        moving = [one for one in model.parameters() if one.requires_grad]
        return {
            key: (one.detach(), list(torch.autograd.grad(one, moving, retain_graph=True, materialize_grads=True)))
            for key, one in zip(pack.example_keys, each, strict=True)
        }

    together = shares(rows)
    assert len(together) == 4
    for key, found in together.items():
        alone = shares([row for row in rows if row.key == key])
        torch.testing.assert_close(found, alone[key], atol=1e-5, rtol=1e-4)  # norms are in fp32


@pytest.mark.matrix("sft*", "dpo*", "reward-extra6", "distil-extra10", "kto*", "classify-extra9")
@pytest.mark.parametrize(("kind", "extra"), TRAINED)
def test_it_learns(kind: str, extra: dict[str, Any], env: TuneEnv) -> None:
    step = Tune(
        data="data", objective=made(kind, **extra), technique=Lora(r=4), batch_size=16, learning_rate=1e-2, epochs=4,
        dtype="float32", teacher="teacher" if OBJECTIVES[kind].needs_teacher else None,
    )  # fmt: skip
    artifact = env.tune(step)
    losses = [json.loads(line)["loss"] for line in (artifact.folder / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.matrix("sft*", "dpo*", "reward-extra17", "distil-extra2")
@pytest.mark.parametrize(("kind", "extra"), TRAINED)
def test_it_resumes_to_the_same_bytes(kind: str, extra: dict[str, Any], tmp_path: Path) -> None:
    step = Tune(
        data="data", objective=made(kind, **extra), technique=Lora(r=4, lora_dropout=0.1), batch_size=8, epochs=1.0,
        dtype="float32", save_steps=2, teacher="teacher" if OBJECTIVES[kind].needs_teacher else None,
    )  # fmt: skip
    whole, again = tune_and_resume(make_env(tmp_path, READS[kind](48)), step, before=5)
    assert {"log.jsonl", "adapter/adapter_model.safetensors", "training_examples.parquet"} <= whole.keys()
    assert again == whole


def effect(objective: Objective, text: ChatTokenizer, env: TuneEnv) -> tuple[Any, ...]:
    """All that an objective's settings may change: examples, loss, and whether the teacher is asked beforehand."""
    kind = type(objective).model_fields["kind"].default
    rows = [*READS[kind](6), conversation(kind)]
    given = [one.model_copy(update={"meta": {**one.meta, "worth": float(at % 2)}}) for at, one in enumerate(rows)]
    learnt = rows_of(objective, given[:6], text)
    loss = float(read(objective, learnt, env, 1 << 14)[0]) if learnt else 0.0
    return objective.build_training_examples(given, text, ABOUT), loss, objective.stored


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str, text: ChatTokenizer, env: TuneEnv) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    beside: dict[str, dict[str, Any]] = {
        "sft.truncation": {"max_length": 1200}, "sft.train_on": {"max_length": 1 << 14},
        "distil.beta": {"divergence": "skewed"}, "reward.scale": {"margin": "worth"},
        "reward.ties": {"margin": "worth"}, "reward.verdict": {"head": "verdict"},
    }  # fmt: skip
    with_it = beside.get(f"{kind}.{name}", {})
    other = made(kind, **{**with_it, name: OTHERWISE[kind, name]})
    assert effect(made(kind, **with_it), text, env) != effect(other, text, env)
