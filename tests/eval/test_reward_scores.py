"""Written answers judged by a trained reward model: as it judges by itself, in pairs, and only where answers are
written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from eval.evaluations import made
from luthier.chat.messages import Message, answer_of, prompt_of
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.store import Store
from luthier.eval.predictions import read_answers
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.task import read_held_out_task
from luthier.models.reward_model import RewardModel
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, finish, make_env, pairs


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("judge"), pairs(24))


@pytest.fixture(scope="module")
def judge(env: TuneEnv) -> Artifact:
    """A reward model that learnt a little."""
    return env.tune(Tune(data="data", objective="reward", technique=Lora(r=4), dtype="float32", batch_size=8,
                          learning_rate=1e-2, epochs=2.0))  # fmt: skip


def test_each_answer_has_the_reward_models_number(store: Store, texts: Artifact, tuned: Artifact, judge: Any) -> None:
    step = Evaluate(data="data", model="tune", baselines=(), max_new_tokens=4, reward_model="judge", dtype="float32",
                    metrics=("reward", "reward_wins"))  # fmt: skip
    found = made(store, step, {"data": texts, "model": tuned, "reward_model": judge})
    _, answers = read_answers(found, "tuned")
    rows, opened = read_held_out_task(texts, "test", None).examples, RewardModel(judge, "float32")
    said = [(*prompt_of(one), Message(role="assistant", content=text))
            for one, text in zip(rows, answers.predictions, strict=True)]  # fmt: skip
    wanted, known = opened(said), opened([one.messages for one in rows])
    assert answers.columns["reward"] == pytest.approx(wanted, abs=1e-5)
    assert answers.columns["reward_won"] == [float(a > b) for a, b in zip(wanted, known, strict=True)]
    told = found.read_json("metrics.json")["models"]["tuned"]
    assert told["reward"]["value"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)
    assert told["reward"]["low"] <= told["reward"]["value"] <= told["reward"]["high"]
    compared = [one for one in found.read_json("comparisons.json") if one["metric"] == "reward"]
    assert {"difference", "low", "high", "fixed", "broken"} <= set(compared[0])
    assert all(answer_of(one) for one in rows)


def test_a_prompted_judge_reads_its_prompt_before_each_answer(
    store: Store, texts: Artifact, tuned: Artifact, env: TuneEnv, judge: Artifact
) -> None:
    prompt = PromptPrefix(instruction="Be strict.")
    folder, _ = env.store.begin("prompted")
    prompt.save(folder)
    (folder / "training.json").write_text("{}")
    prompted = finish(env.store, "prompted", "tune", "model", {"model": judge.digest})
    step = Evaluate(data="data", model="tune", baselines=(), max_new_tokens=2, reward_model="judge", dtype="float32",
                    metrics=("reward",))  # fmt: skip
    found = made(store, step, {"data": texts, "model": tuned, "reward_model": prompted})
    _, answers = read_answers(found, "tuned")
    examples = read_held_out_task(texts, "test", None).examples
    said = [prompt.wrap((*prompt_of(one), Message(role="assistant", content=text)))
            for one, text in zip(examples, answers.predictions, strict=True)]  # fmt: skip
    wanted = RewardModel(judge, "float32")(said)
    assert answers.columns["reward"] == pytest.approx(wanted, abs=1e-5)


def test_without_metrics_it_is_measured_all_the_same(
    store: Store, texts: Artifact, tuned: Artifact, judge: Any
) -> None:
    step = Evaluate(data="data", model="tune", baselines=(), max_new_tokens=2, reward_model="judge", limit=4)
    told = made(store, step, {"data": texts, "model": tuned, "reward_model": judge}).read_json("metrics.json")
    assert {"reward", "reward_wins"} <= set(told["models"]["tuned"])


def test_rows_that_ask_for_a_choice_have_nothing_to_judge(
    store: Store, labels: Artifact, tuned: Artifact, judge: Any
) -> None:
    step = Evaluate(data="data", model="tune", baselines=(), reward_model="judge", limit=4)
    with pytest.raises(LuthierError, match="judges written answers"):
        made(store, step, {"data": labels, "model": tuned, "reward_model": judge})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": ["reward"]}, "name the step that makes a `reward_model`"),
        ({"metrics": ["chrf"], "reward_model": "judge"}, "no metric reads what the reward_model says"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Evaluate.model_validate({"kind": "evaluate", "data": "data", "model": "tune", **settings})
