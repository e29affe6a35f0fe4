"""Preference data as training examples, and the losses of preference objectives against numbers that TRL 1.16 gave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import polars
import pytest
import torch

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Example
from luthier.chat.preference import PreferencePair, pair_of
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, RecipeError
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.generate import compute_model_rewards
from luthier.models.load import get_output_classes, open_model
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.reward_model import RewardModel, get_judge_rubric
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.objective import REFERENCE, Objective
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.objectives.kto import ALONE, EMPTY, PAIRED, UNSAID, Kto
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.objectives.sft import Sft
from luthier.tune.preference import NO_PAIR, SINGLE
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums, compute_row_logprobs
from tuning import TuneEnv, chat, examples, make_env, pairs, preferring, thumbs

CASES = json.loads((Path(__file__).parent / "preferences.json").read_text())
"""Log-probabilities (or rewards) of rows by two models, and the loss and gradient that TRL took of them: written by
`tests/oracles/freeze_preferences.py`; `tests/oracles/test_preferences.py` asks TRL anew, and with whole models."""
QUICK: dict[str, Any] = {
    "data": "data", "technique": Lora(r=4), "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), pairs(40))


@pytest.fixture(scope="module")
def text(env: TuneEnv) -> ChatTokenizer:
    return ChatTokenizer.load(env.base.folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["objective"]))
def test_losses_and_gradients_are_those_that_trl_gave(case: dict[str, Any]) -> None:
    objective = components_by_kind(Objective)[case["objective"]["kind"]].model_validate(case["objective"])
    rows = list(
        _rows(case, mates=1 if case["objective"].get("loss_type") == "apo_zero" and objective.kind == "kto" else 2)
    )
    said = {row.key: values for row, values in zip(rows, case["logp"], strict=True)}
    rows = objective.prepare_rows(rows, lambda some: [sum(said[row.key]) for row in some])
    made = build_pack(rows)
    logp = torch.tensor([value for row in rows for value in said[row.key]], dtype=torch.float64, requires_grad=True)
    loss = objective.loss(logp, made, made.token_values.get(REFERENCE)).total / objective.denominator(rows)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=1e-6)
    wanted = [value for row in rows for value in case["gradient"][int(row.key)]]
    assert logp.grad is not None
    assert logp.grad.abs().max() > 1e-3
    assert logp.grad.tolist() == pytest.approx(wanted, abs=1e-6)


def test_every_form_of_every_preference_objective_is_frozen() -> None:
    there = {(case["objective"]["kind"], case["objective"].get("loss_type")) for case in CASES}
    for kind in ("dpo", "cpo", "simpo", "orpo", "kto", "reward"):
        form = components_by_kind(Objective)[kind].model_fields.get("loss_type")
        forms = get_args(form.annotation) if form is not None else (None,)
        usual = form.default if form is not None else None
        assert {(kind, None if one == usual else one) for one in forms} <= there


def _rows(case: dict[str, Any], mates: int) -> Sequence[TokenRow]:
    """Rows with as many learnt tokens as there are numbers."""
    before = case.get("reference") or [None] * len(case["logp"])
    for at, (values, was, told) in enumerate(
        zip(case["logp"], before, case.get("told") or [{}] * len(before), strict=True)
    ):
        count = len(values)
        known = {name: [value] * count for name, value in told.items()} | ({REFERENCE: was} if was else {})
        yield TokenRow([at] * (count + 1), [0.0, *[1.0] * count], str(at), mates, token_values=known)


def odd() -> dict[str, Example]:
    """What cannot be learnt from a pair, by why."""
    one = chat("Where is my refund?", "billing")
    return {
        "a tie: both answers are the same": preferring(one, " billing "),
        "its 'rejected' is empty": preferring(one, "  "),
        "its preferred answer is empty": preferring(chat("Where?", " "), "billing"),
        NO_PAIR: one,
        SINGLE: one.model_copy(update={"meta": {"label": True}}),
        "its two answers follow different conversations": preferring(one, "").model_copy(
            update={"meta": {"rejected": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I"}]}}
        ),
        "its 'rejected' is neither text nor a conversation that ends with the assistant": preferring(
            one, ""
        ).model_copy(update={"meta": {"rejected": 3}}),
        "longer than 200 tokens": preferring(one, "delivery " * 200),
    }


@pytest.mark.parametrize("kind", ["dpo", "simpo", "cpo", "orpo", "reward"])
def test_what_no_pair_can_teach_is_said(kind: str, text: ChatTokenizer) -> None:
    objective = components_by_kind(Objective)[kind].model_validate({"kind": kind, "max_length": 200})
    dataset = objective.build_training_examples(list(odd().values()), text)
    assert [example.nothing for example in dataset] == list(odd())
    assert not any(example.rows for example in dataset)


def test_both_answers_share_their_prompt_in_a_pack(text: ChatTokenizer) -> None:
    (example,) = DpoObjective().build_training_examples(pairs(1), text)
    chosen, rejected = example.rows
    begin = chosen.targets[0]
    assert chosen.ids[:begin] == rejected.ids[:begin]
    assert build_pack(example.rows).tokens <= len(chosen.ids) + len(rejected.ids) - begin
    assert text.decode(chosen.ids[begin:]).startswith(("account", "billing", "delivery"))


def test_a_rejected_conversation_is_read_with_and_without_its_system_turn(text: ChatTokenizer) -> None:
    one = chat("Where is my refund?", "billing")
    turns = [{"from": "human", "value": "Where is my refund?"}, {"from": "gpt", "value": "delivery"}]
    whole = [{"role": "system", "content": one.messages[0].content}, *turns]
    wanted = DpoObjective().build_training_examples([preferring(one, "delivery")], text)[0].rows
    for given in (turns, whole, {"messages": whole}, {"role": "assistant", "content": "delivery"}):
        other = preferring(one, "").model_copy(update={"meta": {"rejected": given}})
        assert DpoObjective().build_training_examples([other], text)[0].rows == wanted


def test_kto_says_what_it_cannot_learn_from(text: ChatTokenizer) -> None:
    one = chat("Where is my refund?", "billing")
    good = one.model_copy(update={"meta": {"label": True}})
    empty = chat("Where?", " ").model_copy(update={"meta": {"label": "down"}})
    given = [good, preferring(one, "delivery"), one, empty, thumbs(1)[0]]
    assert [example.nothing for example in Kto().build_training_examples(given, text)] == [
        "",
        PAIRED,
        UNSAID,
        EMPTY,
        "",
    ]
    assert Kto().build_training_examples([good], text)[0].nothing == ALONE
    assert Kto(loss_type="apo_zero").build_training_examples([good], text)[0].rows


def test_a_long_answer_leaves_out_its_own_row_and_no_neighbours(text: ChatTokenizer) -> None:
    rows = thumbs(4)
    rows[1] = chat("Where is my refund?", "billing " * 90).model_copy(update={"meta": {"label": True}})
    limit = 120
    whole, found = Kto().build_training_examples(rows, text), Kto(max_length=limit).build_training_examples(rows, text)
    assert [example.nothing for example in found] == ["", f"longer than {limit} tokens", "", ""]
    assert found[1].cut == len(whole[1].rows[0].ids)
    (own, other), (_, plain) = found[2].rows, whole[2].rows
    assert own == whole[2].rows[0]
    assert (other.ids, other.loss_weights) == (plain.ids[:limit], plain.loss_weights[:limit])
    assert other.targets


@pytest.mark.parametrize("value", [True, 1, "yes", "up", "True"])
def test_a_yes_comes_in_many_ways(value: Any, text: ChatTokenizer) -> None:
    one = chat("Where is my refund?", "billing").model_copy(update={"meta": {"thumb": value}})
    (example,) = Kto(loss_type="apo_zero", label="thumb").build_training_examples([one], text)
    assert set(example.rows[0].token_values["wanted"]) == {1.0}


@pytest.mark.parametrize(
    ("objective", "rows", "remedy"),
    [
        (DpoObjective(), thumbs(8), "objective: kto"),
        (RewardObjective(), examples(8), "objective: sft"),
        (Kto(), pairs(8), "objective: dpo"),
        (Kto(label="stars"), thumbs(8), "name the column"),
    ],
)
def test_data_of_another_kind_is_refused_with_the_objective_that_fits(
    objective: Objective, rows: list[Example], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing can be learnt from any training row") as error:
        make_env(tmp_path, rows).tune(Tune(**QUICK, objective=objective))
    assert remedy in error.value.hint


def test_what_is_left_out_is_counted_and_listed(tmp_path: Path) -> None:
    env = make_env(tmp_path, [*pairs(16), *(one for why, one in odd().items() if why != "longer than 200 tokens")])
    learnt = polars.read_parquet(env.tune(Tune(**QUICK, objective=DpoObjective())).folder / "training_examples.parquet")
    assert learnt.filter(polars.col("nothing").is_null()).height == 16
    assert set(learnt["nothing"].drop_nulls()) == set(odd()) - {"longer than 200 tokens"}
    assert any("1 row: a tie: both answers are the same" in said for said in env.said("warning"))


@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
def test_the_reference_is_the_model_as_it_was(env: TuneEnv, technique: Any) -> None:
    """Before anything moves, the model and its reference are alike: DPO's loss is log 2, and KTO's is 1/2."""
    made = env.tune(Tune(**{**QUICK, "technique": technique, "learning_rate": 1e-3}, objective=DpoObjective()))
    first = json.loads((made.folder / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.matrix("sft", "dpo")
@pytest.mark.parametrize(
    "objective",
    ["dpo", "kto", "reward", "sft", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cpo", "simpo", "orpo"))],
)
def test_dropout_that_is_built_into_a_model_is_off_for_preferences_alone(tmp_path: Path, objective: str) -> None:
    """As in TRL; a technique's own, which somebody asked for, is on."""
    env = make_env(tmp_path, thumbs(24) if objective == "kto" else pairs(24))
    config = env.base.folder / "config.json"
    dropping = config.read_text().replace('"attention_dropout": 0.0', '"attention_dropout": 0.5')

    def losses(**settings: Any) -> list[str]:
        looks = {"validation": {"rows": 4, "every": 1}, "max_steps": 2}
        step = Tune(**{**QUICK, "objective": objective, **looks, **settings})
        lines = (env.tune(step).folder / "log.jsonl").read_text().splitlines()
        env.store.remove(env.tune_digest(step))
        return lines

    plain = losses()
    own = losses(technique=Lora(r=4, lora_dropout=0.5))
    assert own != plain
    config.write_text(dropping)
    assert (losses() == plain) == (objective != "sft")
    assert (losses(technique=Lora(r=4, lora_dropout=0.5)) == own) == (objective != "sft")


def test_held_out_pairs_are_measured_by_accuracy_and_margin(env: TuneEnv) -> None:
    step = Tune(
        **QUICK, objective=DpoObjective(), epochs=3, validation=ValidationSettings(rows=8, every=2, metric="margin")
    )
    made = env.tune(step)
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    measured = [line for line in log if "held_out_margin" in line]
    assert measured[-1]["held_out_margin"] > measured[0]["held_out_margin"]
    assert 0 <= measured[-1]["held_out_accuracy"] <= 1
    held = json.loads((made.folder / "training.json").read_text())["held_out"]
    assert held["metric"] == "held_out_margin"
    assert held["best"] == max(line["held_out_margin"] for line in measured)


def test_a_margin_is_refused_where_nothing_has_one(tmp_path: Path) -> None:
    step = Tune(**QUICK, objective=Sft(), validation=ValidationSettings(rows=4, metric="margin"))
    with pytest.raises(RecipeError, match="measured on pairs of answers, and sft learns from none"):
        make_env(tmp_path).tune(step)


def test_a_reward_model_opens_in_plain_transformers_and_peft(env: TuneEnv, text: ChatTokenizer) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from luthier.models.load import open_model
    from luthier.models.quiet import silence_peft_warnings

    made = env.tune(Tune(**QUICK, objective=RewardObjective(), epochs=2))
    base = AutoModelForSequenceClassification.from_pretrained(env.base.folder, num_labels=1, dtype=torch.float32)
    with silence_peft_warnings():
        plain = PeftModel.from_pretrained(base, made.folder / "adapter").eval()
    rows = [row for example in RewardObjective().build_training_examples(pairs(4), text) for row in example.rows]
    ours = [values[0] for values in compute_row_logprobs(open_model(made, "float32"), rows, 4096)]
    with torch.no_grad():
        theirs = [float(plain(torch.tensor([row.ids[:-1]])).logits[0, 0]) for row in rows]
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(set(ours)) == len(ours)


@pytest.mark.slow
def test_a_reward_model_needs_nothing_of_ours(env: TuneEnv, text: ChatTokenizer) -> None:
    """A process that has transformers and PEFT alone reads the same numbers."""
    made = env.tune(Tune(**QUICK, objective=RewardObjective(), epochs=2))
    ids = [
        list(row.ids[:-1])
        for example in RewardObjective().build_training_examples(pairs(4), text)
        for row in example.rows
    ]
    ours = compute_model_rewards(open_model(made, "float32"), ids)
    told = json.dumps([str(env.base.folder), str(made.folder / "adapter"), ids])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, told], capture_output=True, text=True, check=True, env=BARE
    )
    assert json.loads(ran.stdout) == pytest.approx(ours, abs=1e-4)


PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
base, adapter, rows = json.loads(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    print(json.dumps([float(model(torch.tensor([ids])).logits[0, 0]) for ids in rows]))
assert not any(name.split(".")[0] == "luthier" for name in sys.modules)
"""
BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_a_generative_judge_learns_from_pairs_and_stays_a_language_model(env: TuneEnv, text: ChatTokenizer) -> None:
    """The log-odds of its yes are what it learnt to raise, and the reward `model` reads them."""
    step = Tune(**QUICK, objective=RewardObjective(head="verdict"), epochs=3)
    made = env.tune(step)
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    assert get_judge_rubric(made) == YesNoJudgePrompt().model_dump()
    assert get_judge_rubric(env.base) is None
    judge = RewardModel(made, "float32")
    told = [pair for one in pairs(24) if isinstance(pair := pair_of(one), PreferencePair)]
    found = judge([(*pair.prompt, answer) for pair in told for answer in (pair.chosen, pair.rejected)])
    assert sum(good > bad for good, bad in zip(found[::2], found[1::2], strict=True)) >= 20
    rows = RewardObjective(head="verdict").build_training_examples(pairs(24), text)[0].rows
    sums = compute_row_logprob_sums(open_model(made, "float32"), rows, 4096)
    assert found[:2] == pytest.approx([sums[0] - sums[1], sums[2] - sums[3]], abs=1e-4)
    assert not get_output_classes(made)


@pytest.mark.parametrize("pad", [None, "!"], ids=["no padding token", "another than the end's"])
def test_a_reward_model_is_read_where_it_learnt_also_in_padded_rows(tmp_path: Path, pad: str | None) -> None:
    """Where a conversation ends with the end of text that the settings of the base take for padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    env = make_env(tmp_path, rows := pairs(16))
    template = env.base.folder / "chat_template.jinja"
    turn = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% if not loop.last %}\n{% endif %}"
    template.write_text("{% for m in messages %}" + turn + "{% endfor %}")
    for name, changes in (("config", {"pad_token_id": None}), ("tokenizer_config", {"pad_token": pad})):
        path = env.base.folder / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    made = env.tune(Tune(**QUICK, objective="reward", epochs=3))
    text = ChatTokenizer.load(env.base.folder)
    learnt = [row for example in RewardObjective().build_training_examples(rows, text) for row in example.rows]
    wanted = [values[0] for values in compute_row_logprobs(open_model(made, "float32"), learnt, 4096)]
    told = [pair for one in rows if isinstance(pair := pair_of(one), PreferencePair)]
    said = text.encode_many([(*pair.prompt, answer) for pair in told for answer in (pair.chosen, pair.rejected)])
    assert compute_model_rewards(open_model(made, "float32"), [one.ids for one in said]) == pytest.approx(
        wanted, abs=1e-5
    )
    out = export_model_folder(made, tmp_path / "out", "merged")
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer.pad({"input_ids": [one.ids for one in said]}, return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(out).eval()(**batch).logits[:, 0]
    assert theirs.tolist() == pytest.approx(wanted, abs=1e-4)
    card = (export_model_folder(made, tmp_path / "adapter", "adapter") / "README.md").read_text()
    assert f"model.config.pad_token_id = {tokenizer.pad_token_id}\n" in card


def test_a_reward_model_reads_the_tools_on_offer_when_it_judges(tmp_path: Path) -> None:
    """As it did when it learnt: the reward `model` gives what training and evaluation give."""
    from luthier.tune.reward import RewardCompletion
    from luthier.tune.reward import RewardContext as Judging
    from luthier.tune.rewards.model import ModelReward

    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    rows = [one.model_copy(update={"tools": (tool,)}) for one in pairs(16)]
    env = make_env(tmp_path, rows)
    template = env.base.folder / "chat_template.jinja"
    template.write_text("{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}" + template.read_text())
    made = env.tune(Tune(**QUICK, objective="reward", epochs=3))
    text = ChatTokenizer.load(env.base.folder)
    learnt = [row for example in RewardObjective().build_training_examples(rows, text) for row in example.rows[:1]]
    wanted = compute_model_rewards(open_model(made, "float32"), [row.ids[:-1] for row in learnt])
    judge = RewardModel(made, "float32")
    context = Judging(recipe_dir=tmp_path, kept=tmp_path, models=Path, model=judge)
    found = ModelReward().score([RewardCompletion(one, one.messages[-1].content, 1) for one in rows], context)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_what_is_asked_is_no_setting_of_a_sequence_head() -> None:
    with pytest.raises(ValueError, match="changes nothing under a sequence head"):
        RewardObjective.model_validate({"kind": "reward", "verdict": {"rubric": "Is it kind?"}})


def test_margins_and_ties_of_rewards(text: ChatTokenizer) -> None:
    given = pairs(3)  # margins 0, 1 and 2 in the column `row`
    dropped = RewardObjective(margin="row", scale=0.5).build_training_examples(given, text)
    assert [example.nothing for example in dropped] == ["a tie: its row is 0", "", ""]
    assert [example.rows[0].token_values["margin"] for example in dropped[1:]] == [[0.5], [1.0]]
    rows = RewardObjective(margin="row", ties="learn").build_training_examples(given, text)[0].rows
    for given_rewards in ([1.0, -1.0], [-1.0, 1.0]):
        loss = (
            RewardObjective(margin="row", ties="learn").loss(torch.tensor(given_rewards), build_pack(rows), None).total
        )
        assert float(loss) == pytest.approx(1.126928, abs=1e-5)
    with pytest.raises(DataError, match="expected a margin of 0 or more, got -1"):
        RewardObjective(margin="row").build_training_examples([preferring(given[0], "delivery", row=-1)], text)


def test_preferences_are_learnt_in_smaller_steps_than_answers(env: TuneEnv) -> None:
    from luthier.models.describe import describe_model_folder

    model, lora = describe_model_folder(env.base.folder), Lora(r=4)
    answers, prefers = (Tune(data="data", objective=one).rate_for(lora, model) for one in (Sft(), DpoObjective()))
    assert prefers.value == pytest.approx(answers.value / 20, rel=1e-2)
    assert prefers.why.endswith("times 0.05 for dpo")
    assert Tune(data="data", objective=DpoObjective(), learning_rate=1e-3).rate_for(lora, model).value == 1e-3
