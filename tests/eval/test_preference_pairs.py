"""Held-out pairs of answers: language models rank by likelihood, reward models by reward, beside base and length."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from eval.evaluations import base_model, label_examples, made
from eval.probing import pairs_of
from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.core.step import PlanContext
from luthier.core.store import Store
from luthier.eval.baselines.heuristics import LengthBaseline
from luthier.eval.cost import estimate_extra_tokens, forecast_evaluation_cost
from luthier.eval.local_model import InferenceSettings, LocalEvalModel
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.task import FIRST, SECOND, build_answer_pair, label_preference_pairs, read_held_out_task
from luthier.models.cost import estimate_rows
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.lm.base import LoglikelihoodRequest
from luthier.models.load import cpu_has_bf16, find_base_folder, get_output_classes, open_model
from luthier.models.reward_model import RewardModel
from luthier.models.sources.folder import FolderModelSource
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from models.making import make_base
from tuning import make_env, pairs, preferring

QUESTION = InferenceSettings(normalize="sum", max_new_tokens=8, dtype="float32", likelihood=False)


@pytest.fixture(scope="module")
def held(store: Store) -> Artifact:
    """Pairs to learn from and pairs that are held out."""
    return pairs_of(store)


@pytest.fixture(scope="module")
def rewarding(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny reward model."""
    step = Tune(
        data="data", technique=Lora(r=4), objective=RewardObjective(), batch_size=8, epochs=3, learning_rate=1e-2,
        dtype="float32",
    )  # fmt: skip
    return make_env(tmp_path_factory.mktemp("shop"), pairs(40)).tune(step)


def test_the_preferred_answer_stands_first_or_second_by_the_row(held: Artifact) -> None:
    task = read_held_out_task(held, "test", None, pairs=True)
    assert (task.kind, task.pairs, task.labels) == ("label", True, [FIRST, SECOND])
    assert 8 <= task.references.count(FIRST) <= 22
    for example in task.examples:
        answers = build_answer_pair(example).answers
        assert answers[example.label == SECOND] == example.messages[-1].content
        assert answers[example.label == FIRST] == example.meta["rejected"]


def test_rows_without_two_answers_are_a_task_of_texts_and_pairs_may_be_too(held: Artifact, texts: Artifact) -> None:
    assert not read_held_out_task(texts, "test", None, pairs=True).pairs
    assert not read_held_out_task(held, "test", None).pairs
    assert read_held_out_task(held, "test", None).digest != read_held_out_task(held, "test", None, pairs=True).digest


def test_a_tie_is_left_out_and_counted() -> None:
    good, tie = (
        preferring(label_examples(2)[0], "no"),
        preferring(label_examples(2)[1], label_examples(2)[1].label or ""),
    )
    found, left = label_preference_pairs([good, tie])
    assert [one.id for one in found] == [good.id]
    assert left == {"a tie: both answers are the same": 1}
    with pytest.raises(DataError, match="no held-out pair can be ranked"):
        label_preference_pairs([tie])


def test_pairs_of_one_length_do_not_speak_for_the_shorter_answer(held: Artifact) -> None:
    rejected = ["no"] * 4 + ["a longer answer than that"] * 3
    rows = label_examples(10)
    train = [preferring(one, text) for one, text in zip(rows, rejected, strict=False)]
    train += [preferring(one, "x" * len(one.label or "")) for one in rows[7:]]
    task = read_held_out_task(held, "test", None, pairs=True)
    lengths = [tuple(map(len, build_answer_pair(one).answers)) for one in task.examples]
    replies = LengthBaseline().answer(train, task)
    assert any(first != second for first, second in lengths)
    for (first, second), reply in zip(lengths, replies, strict=True):
        assert reply.prediction == (FIRST if first >= second else SECOND)
        assert first == second or max((reply.scores or {}).values()) == pytest.approx(math.log(5 / 9), abs=1e-6)


def test_an_evaluation_of_pairs_says_whether_the_tuned_model_prefers_better(
    store: Store, held: Artifact, tuned: Artifact
) -> None:
    found = made(store, Evaluate(data="data", model="tune"), {"data": held, "model": tuned})
    metrics = found.read_json("metrics.json")
    assert set(metrics["models"]) == {"tuned", "base", "length"}
    assert set(metrics["models"]["tuned"]) == {"accuracy", "ece", "brier"}
    assert set(metrics["measures"]["tuned"]) >= {"preference.longer", "preference.markup", "preference.lift"}
    assert 0 <= metrics["measures"]["tuned"]["preference.longer"]["detail"]["people"] <= 1
    compared = found.read_json("comparisons.json")
    assert ("tuned", "base") in {(row["a"], row["b"]) for row in compared if row["metric"] == "accuracy"}
    summary = found.read_json("summary.json")
    assert any("which of them people preferred" in note for note in summary["notes"])


def test_likelihoods_are_those_of_the_answers(store: Store, held: Artifact) -> None:
    task, model = (
        read_held_out_task(held, "test", 6, pairs=True),
        LocalEvalModel.of(base_model(store), QUESTION, name="base", title=""),
    )
    for example, reply in zip(task.examples, model.answer(task.examples, task), strict=True):
        offer = build_answer_pair(example)
        asked = [LoglikelihoodRequest(prompt=offer.prompt, continuation=answer) for answer in offer.answers]
        first, second = (one.logprob or 0.0 for one in model.lm.loglikelihood(asked))
        assert reply.scores == pytest.approx({FIRST: first, SECOND: second}, abs=1e-4)
        assert reply.prediction == (FIRST if first > second else SECOND)


def test_a_reward_model_ranks_by_its_reward(held: Artifact, rewarding: Artifact) -> None:
    import torch

    model = LocalEvalModel.of(rewarding, QUESTION, name="tuned", title="the tuned model")
    assert model.able == {"answer"}
    task = read_held_out_task(held, "test", 4, pairs=True)
    plain, text = open_model(rewarding, "float32"), ChatTokenizer.load(rewarding.parent("model").folder)
    for example, reply in zip(task.examples, model.answer(task.examples, task), strict=True):
        offer, rewards = build_answer_pair(example), []
        for said in offer.answers:
            ids = text.encode([*offer.prompt, Message(role="assistant", content=said)]).ids
            with torch.no_grad():
                rewards.append(float(plain(torch.tensor([ids])).logits[0, 0]))
        assert reply.scores is not None
        assert reply.scores[FIRST] - reply.scores[SECOND] == pytest.approx(rewards[0] - rewards[1], abs=1e-4)
        assert sum(map(math.exp, reply.scores.values())) == pytest.approx(1, abs=1e-5)


def test_a_reward_model_is_evaluated_beside_its_base(store: Store, held: Artifact, rewarding: Artifact) -> None:
    found = made(store, Evaluate(data="data", model="tune"), {"data": held, "model": rewarding})
    metrics = found.read_json("metrics.json")
    assert set(metrics["models"]) == {"tuned", "base", "length"}
    assert "preference.lift" not in metrics["measures"]["tuned"]
    assert json.loads(Path(found.folder / "summary.json").read_text())["task"] == "label"


def test_a_generative_judge_ranks_by_its_verdicts_and_so_does_its_base_under_the_same_rubric(
    store: Store, held: Artifact, tmp_path: Path
) -> None:
    env = make_env(tmp_path, pairs(40))
    judge = env.tune(
        Tune(data="data", technique=Lora(r=4), objective=RewardObjective(head="verdict"), batch_size=8, epochs=3,
             learning_rate=1e-2, dtype="float32")
    )  # fmt: skip
    found = made(store, Evaluate(data="data", model="tune", dtype="float32"), {"data": held, "model": judge})
    tuned = found.read_json("metrics.json")["models"]["tuned"]["accuracy"]
    assert tuned["low"] <= tuned["value"] <= tuned["high"]
    compared = found.read_json("comparisons.json")
    assert ("tuned", "base") in {(row["a"], row["b"]) for row in compared if row["metric"] == "accuracy"}
    task = read_held_out_task(held, "test", 4, pairs=True)
    for artifact in (judge, judge.parent("model")):
        model = LocalEvalModel.of(
            artifact, replace(QUESTION, verdict=YesNoJudgePrompt().model_dump()), name="one", title=""
        )
        asks = RewardModel(artifact, "float32")
        for example, reply in zip(task.examples, model.answer(task.examples, task), strict=True):
            offer = build_answer_pair(example)
            talks = [(*offer.prompt, Message(role="assistant", content=said)) for said in offer.answers]
            first, second = asks.odds(talks, YesNoJudgePrompt())
            assert reply.scores is not None
            assert reply.scores[FIRST] - reply.scores[SECOND] == pytest.approx(first - second, abs=1e-4)


def test_a_reward_model_that_somebody_published_ranks_as_its_own_does(
    store: Store, held: Artifact, rewarding: Artifact, tmp_path: Path
) -> None:
    """One that begins a recipe, whatever transformers calls its one output."""
    out = export_model_folder(rewarding, tmp_path / "out", "merged")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}))
    published = make_base(store, FolderModelSource(path=str(out)), tmp_path)
    assert get_output_classes(published) == get_output_classes(rewarding) == ("reward",)
    assert not get_output_classes(rewarding.parent("model"))
    task = read_held_out_task(held, "test", 6, pairs=True)
    said = [
        LocalEvalModel.of(one, QUESTION, name="one", title="").answer(task.examples, task)
        for one in (published, rewarding)
    ]
    for first, second in zip(*said, strict=True):
        assert first.scores == pytest.approx(second.scores, abs=1e-4)


def test_a_reward_model_writes_nothing(store: Store, texts: Artifact, rewarding: Artifact) -> None:
    with pytest.raises(DataError, match="a reward model ranks answers"):
        made(store, Evaluate(data="data", model="tune"), {"data": texts, "model": rewarding})


def test_metrics_of_texts_are_refused_where_answers_are_ranked(store: Store, held: Artifact, tuned: Artifact) -> None:
    step = Evaluate.model_validate({"data": "data", "model": "tune", "metrics": ["rougeL"]})
    with pytest.raises(RecipeError, match="rougeL is about written answers"):
        made(store, step, {"data": held, "model": tuned})
    found = made(store, step.model_copy(update={"pairs": False}), {"data": held, "model": tuned})
    assert set(found.read_json("metrics.json")["models"]["tuned"]) == {"rougeL"}


def test_what_is_foretold_counts_both_answers_and_the_head_that_scores_them(
    held: Artifact, tuned: Artifact, rewarding: Artifact
) -> None:
    step = Evaluate(data="data", model="tune", tasks=())
    outlook = PlanContext(
        inputs={"data": held, "model": tuned}, upstream={"model": Tune(data="data")}, recipe_dir=Path()
    )
    text = ChatTokenizer.load(find_base_folder(tuned))
    read = scored = 0
    for example in read_held_out_task(held, "test", None, pairs=True).examples:
        offer = build_answer_pair(example)
        prompt, answers = text.options(offer.prompt, offer.answers)
        scored += sum(map(len, answers))
        read += len(prompt) + sum(map(len, answers))
    assert forecast_evaluation_cost(step, outlook).tokens == pytest.approx(2 * read, rel=0.1), (
        "by the tuned model and its base"
    )
    rows = estimate_rows(None, outlook, "test")
    assert rows is not None
    aside = estimate_extra_tokens(step, outlook, rows)
    assert rows.number * aside.headed == pytest.approx(scored, rel=0.25)
    by_head = PlanContext(inputs={"data": held, "model": rewarding}, upstream={}, recipe_dir=Path())
    assert estimate_extra_tokens(step, by_head, rows) == (aside.tokens, 0.0, True)
    single = estimate_extra_tokens(step.model_copy(update={"pairs": False}), outlook, rows)
    assert single == (0.0, 0.0, False)


@pytest.mark.parametrize(("task", "is_known"), [("pairs", True), ("label", False), ("text", False)])
def test_paces_of_pairs_are_those_of_pairs_alone(held: Artifact, tuned: Artifact, task: str, *, is_known: bool) -> None:
    pace = {"task": task, "flops_per_s": 1e9, "bf16": cpu_has_bf16(), "writes": False}
    outlook = PlanContext(inputs={"data": held, "model": tuned}, upstream={}, recipe_dir=Path(), paces=[pace])
    assert (
        "as the last such step" in forecast_evaluation_cost(Evaluate(data="data", model="tune"), outlook).how
    ) == is_known


def test_baselines_that_cannot_rank_are_refused(store: Store, held: Artifact, tuned: Artifact) -> None:
    step = Evaluate.model_validate({"data": "data", "model": "tune", "baselines": ["majority"]})
    with pytest.raises(RecipeError, match="baseline 'majority' cannot do tasks of pairs"):
        made(store, step, {"data": held, "model": tuned})
    step = Evaluate.model_validate({"data": "data", "model": "tune", "pairs": False, "probes": ["preference"]})
    with pytest.raises(RecipeError, match="preference is about pairs"):
        made(store, step, {"data": held, "model": tuned})
