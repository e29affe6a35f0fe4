"""Training on what the model writes itself: drawn by seed and step, judged, learnt in the one loop, resumed exactly."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Message
from luthier.chat.prompt import PromptPrefix
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.generate import compute_model_rewards, score_options
from luthier.models.load import load_model
from luthier.models.packing.pack import TokenRow
from luthier.models.reward_model import RewardModel
from luthier.tune.rollout.rollout import RolloutBatchSource
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, finish, interrupted, make_env, pairs

REWARD = {"kind": "regex", "pattern": "e"}
"""Answers with an e in them are good: a random model can learn that."""
ROLLOUT = {"num_generations": 6, "max_completion_length": 4}


def step(objective: dict[str, Any] | None = None, **settings: Any) -> Tune:
    told = {"kind": "grpo", "rewards": [REWARD], "rollout": ROLLOUT, **(objective or {})}
    usual = {
        "data": "data", "technique": Lora(r=4), "batch_size": 4, "max_train_samples": 24, "learning_rate": 1e-2,
        "dtype": "float32", "objective": told,
    }  # fmt: skip
    return Tune(**{**usual, **settings})


def log(artifact: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.folder / "log.jsonl").read_text().splitlines()]


def digests(artifact: Any) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files}


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


def test_it_learns_what_is_rewarded_and_tells_of_it(env: TuneEnv) -> None:
    told = log(env.tune(step(epochs=4)))
    assert len(told) == 24
    rewards = [line["reward"] for line in told]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1
    first = told[0]
    assert first["reward"] == first["reward_regex"]
    assert first["written_apart"] < 1e-5
    assert first["clipped"] == 0.0
    assert 0 < first["entropy"] < math.log(400)
    assert 1 <= first["length"] <= 4
    assert [len(line.get("samples", ())) for line in told[:4]] == [2, 0, 0, 2]


@pytest.mark.parametrize("shown", [0, 3])
def test_as_many_answers_are_shown_as_are_asked_for(env: TuneEnv, shown: int) -> None:
    told = log(env.tune(step({"shown": shown}, max_train_samples=8)))
    assert len(told[0].get("samples", ())) == shown


def test_the_speed_of_drawing_is_measured_for_later_forecasts(env: TuneEnv) -> None:
    asked = step(max_train_samples=8)
    measures = asked.make(env.work(asked))
    parameters, written = describe_model_folder(env.base.folder).parameters, 8 * 6 * 4
    drawing_s = written * 2 * parameters / measures["drawing_flops_per_s"]  # as long as answers may be
    assert measures["writing_s"] > 0
    assert 0 < drawing_s < 6 * measures["writing_s"]
    inputs = {"data": env.data, "model": env.base}
    history = {"measures": {**measures, "drawing_flops_per_s": measures["drawing_flops_per_s"] / 1e6}}
    later = asked.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=history))
    assert later.seconds == pytest.approx(drawing_s * 1e6, rel=0.1)


def test_an_interrupted_training_ends_in_the_same_bytes(env: TuneEnv) -> None:
    objective = {
        "rollout": {**ROLLOUT, "steps_per_generation": 2, "redraw": 1},
        "kl": {"coefficient": 0.05, "target": 0.01},
    }
    made = step(objective, save_steps=1, validation={"rows": 6, "every": 2})
    whole = digests(env.tune(made))
    env.store.remove(env.tune_digest(made))
    interrupted(env, made, before=3)  # in the middle of a phase: the two steps are drawn again
    assert digests(env.tune(made)) == whole


def test_what_is_drawn_in_place_of_another_prompt_is_what_was_seen(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a training that was taken up again; a prompt that was replaced was not learnt."""
    once, learnt = RolloutBatchSource._build_rows, Counter[str]()

    def spied(self: RolloutBatchSource, groups: list[Any]) -> list[TokenRow]:
        learnt.update(self._questions.rows(group.index)[0].key for group in groups)
        return once(self, groups)

    reward = {"kind": "regex", "pattern": "^[aeiou]"}  # what the random model writes rarely
    made = step({"rollout": {**ROLLOUT, "redraw": 1}, "rewards": [reward]}, save_steps=1, max_train_samples=16)
    with monkeypatch.context() as patch:
        patch.setattr(RolloutBatchSource, "_build_rows", spied)
        whole = env.tune(made)
    told = polars.read_parquet(whole.folder / "training_examples.parquet")
    assert {row["id"]: row["seen"] for row in told.to_dicts() if row["seen"]} == dict(learnt)
    assert any("instead" in line for line in log(whole))
    before = digests(whole)
    env.store.remove(whole.digest)
    interrupted(env, made, before=2)
    assert digests(env.tune(made)) == before


def test_a_trained_reward_model_judges_and_another_model_cannot(tmp_path: Path) -> None:
    env = make_env(tmp_path, pairs(24))
    judge = env.tune(Tune(data="data", objective="reward", technique=Lora(r=4), dtype="float32", batch_size=8,
                           learning_rate=1e-2, epochs=3.0))  # fmt: skip
    asked = step({"rewards": ["model"]}, reward_model="judge")
    told = log(learnt(env, asked, judge))
    assert all(line["reward"] == line["reward_model"] for line in told)
    assert len({line["reward"] for line in told}) > 1
    assert told[0]["reward_spread"] > 0
    with pytest.raises(ModelError, match="is no reward model") as caught:
        learnt(env, asked, env.base)
    assert caught.value.where.field == "reward_model"


@pytest.mark.parametrize("head", ["sequence", "verdict"])
def test_a_reward_model_over_a_prompted_one_judges_with_the_prompt_that_it_learnt_with(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(tmp_path, pairs(24))
    prompt = PromptPrefix(instruction="Be strict.", shown=(Message(role="user", content="So?"),))
    folder, _ = env.store.begin("prompted")
    prompt.save(folder)
    (folder / "training.json").write_text("{}")
    prompted = finish(env.store, "prompted", "tune", "model", {"model": env.base.digest})
    objective = {"kind": "reward", "head": head}
    judge = env.tune(Tune(data="data", objective=objective, technique=Lora(r=4), dtype="float32", batch_size=8,
                           learning_rate=1e-2), model=prompted)  # fmt: skip
    heard: list[tuple[Any, list[float]]] = []
    once = RewardModel.__call__

    def spied(self: RewardModel, conversations: Any, tools: Any = None) -> list[float]:
        heard.append((conversations, once(self, conversations, tools)))
        return heard[-1][1]

    monkeypatch.setattr(RewardModel, "__call__", spied)
    learnt(env, step({"rewards": ["model"]}, reward_model="judge", max_train_samples=4), judge)
    text, model = ChatTokenizer.load(env.base.folder, before=prompt), load_model(judge, "float32").model
    for conversations, found in heard:
        if head == "sequence":
            wanted = compute_model_rewards(model, [row.ids for row in text.encode_many(conversations)])
        else:
            asked = [text.options(YesNoJudgePrompt().build_prompt(one), ("Yes", "No")) for one in conversations]
            sums = score_options(model, [before for before, _ in asked], [verdicts for _, verdicts in asked])
            wanted = [yes - no for yes, no in sums]
        assert found == pytest.approx(wanted, abs=1e-4)


def test_held_out_answers_are_judged_by_another_reward_model_than_is_learnt(tmp_path: Path) -> None:
    env = make_env(tmp_path, pairs(24))
    reward = Tune(data="data", objective="reward", technique=Lora(r=4), dtype="float32", batch_size=8,
                  learning_rate=1e-2, epochs=2.0)  # fmt: skip
    judge, other = env.tune(reward), env.tune(reward.model_copy(update={"epochs": 1.0}))
    held_out = {"rows": 6, "every": 2, "keep": "last"}
    objective = {"rewards": ["model"], "gold": ["model"]}
    own = step(objective, reward_model="judge", validation=held_out)
    golden = step(objective, reward_model="judge", gold_model="gold", validation=held_out)
    ours = log(learnt(env, own, judge))
    theirs = log(learnt(env, golden, judge, gold_model=other))
    name = "held_out_reward_model"
    assert [line["reward"] for line in ours] == [line["reward"] for line in theirs]
    assert all(one[name] != two[name] for one, two in zip(ours, theirs, strict=True) if name in one)
    assert any(name in line for line in theirs)


def learnt(env: TuneEnv, made: Tune, judge: Artifact, **more: Artifact) -> Artifact:
    """A model tuned with what another one says of its answers."""
    work = env.work(made)
    made.make(replace(work, inputs={**work.inputs, "reward_model": judge, **more}))
    return finish(env.store, env.tune_digest(made), "tune", "model", {"data": env.data.digest})


EMPTY = {"kind": "regex", "pattern": "$", "where": "whole"}
"""An answer that says nothing is good."""


@pytest.mark.parametrize("kind", ["grpo", "rloo", "ppo", "reinforce++", "raft", "online_dpo"])
def test_an_answer_that_ends_at_once_is_judged_and_learnt(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Half of all tokens end an answer here, so that half of the answers are one end token with no text before it."""
    ends = frozenset(range(0, ChatTokenizer.load(env.base.folder).vocabulary, 2))
    monkeypatch.setattr(ChatTokenizer, "end_ids", ends)
    told = log(env.tune(step({"kind": kind, "rewards": [EMPTY]}, max_train_samples=8)))
    assert len(told) == 2
    for line in told:
        assert 0.2 < line["reward"] < 0.8
        assert 1 <= line["length"] < 3
        assert math.isfinite(line["loss"])


def test_where_all_answers_end_at_once_there_is_nothing_to_compare(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatTokenizer, "end_ids", frozenset(range(ChatTokenizer.load(env.base.folder).vocabulary)))
    with pytest.raises(ModelError, match="no parameter moved"):
        env.tune(step(max_train_samples=8))


def test_nothing_to_learn_anywhere_is_an_error_that_says_why(env: TuneEnv) -> None:
    never = step({"rewards": [{"kind": "regex", "pattern": "never said"}]})
    with pytest.raises(ModelError, match="no parameter moved: in every step the answers to each of its prompts") as it:
        env.tune(never)
    assert "easier prompts" in it.value.hint


def test_a_long_way_from_its_beginning_it_stops(env: TuneEnv) -> None:
    made = env.tune(step({"stop": {"kl": 1e-4}}, epochs=3))
    told = log(made)
    assert len(told) < 18
    why = json.loads((made.folder / "training.json").read_text())["stopped"]
    assert why.startswith(f"after step {len(told)}: its answers are")
    assert why.endswith("(stop.kl)")
    assert told[-1]["kl"] > 1e-4
    assert any("nats a token away from where it began, and 0.0001 are allowed" in said for said in env.said("note"))


def test_a_reward_that_is_gamed_stops_it(env: TuneEnv) -> None:
    """What is learnt is an e; what is wanted, and only the held-out answers are asked for, is none."""
    gold = {"kind": "regex", "pattern": "^[^e]*$", "label": "no_e"}
    objective = {"gold": [gold], "stop": {"hacking": 2}}
    made = step(objective, epochs=12, validation={"rows": 8, "every": 2, "keep": "last"}, learning_rate=2e-2)
    told = log(env.tune(made))
    measured = [line["held_out_reward_no_e"] for line in told if "held_out_reward_no_e" in line]
    assert measured[-1] < max(measured)
    assert len(told) < 72
    assert any("while the reward that is learnt rose" in said and "(stop.hacking)" in said for said in env.said("note"))


def test_answers_do_not_depend_on_who_else_is_asked_and_differ_from_step_to_step() -> None:
    from luthier.tune.rollout.generate import create_random_stream

    names = [
        create_random_stream(7, step, 0, place, 3, sample)
        for step in range(8)
        for place in range(8)
        for sample in range(8)
    ]
    assert len(set(names)) == len(names)
    assert create_random_stream(7, 1, 0, 2, 3, 4) == create_random_stream(7, 1, 0, 2, 3, 4) < 1 << 40
