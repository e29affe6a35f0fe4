"""The evaluation step: labels and texts on real tiny models, the same bytes after a kill, and honest documents."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from eval.evaluations import dataset, evaluation, example, label_examples, made, work_of
from eval.probing import pairs_of
from luthier.artifacts.dataset import DatasetSummary, dump_spec_example, read_examples
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.core.events import RunEvent
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.core.store import Store
from luthier.eval import local_model
from luthier.eval.cost import _ALONE_READING_BYTES, _READING_BYTES, estimate_overhead_seconds
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.gate import Gate
from luthier.eval.task import HeldOutTask, read_held_out_task
from luthier.metrics.paired import adjust_holm
from luthier.models.cost import estimate_matmul_speedup, estimate_rows
from luthier.models.describe import describe_model_folder
from luthier.models.lm import local
from luthier.models.load import find_base_folder
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.models.steps.base import BaseModelStep
from luthier.models.token_counts import count_branch_tokens
from luthier.tune.steps.tune import Tune
from tiny_models import tickets

FILES = ("predictions.parquet", "metrics.json", "comparisons.json", "summary.json")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The artifact's own files."""
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def about_labels(store: Store, labels: Artifact, tuned: Artifact) -> Artifact:
    return made(store, Evaluate(data="data", model="tune", dtype="float32"), {"data": labels, "model": tuned})


def test_layout(about_labels: Artifact, labels: Artifact) -> None:
    frame = pl.read_parquet(about_labels.path("predictions.parquet"))
    assert frame["model"].unique(maintain_order=True).to_list() == ["tuned", "base", "majority", "tfidf"]
    assert frame.height == 4 * 30
    assert (frame["correct"] == (frame["prediction"] == frame["reference"])).all()
    metrics = about_labels.read_json("metrics.json")["models"]
    assert set(metrics) == {"tuned", "base", "majority", "tfidf"}
    for scores in metrics.values():
        assert set(scores) == {"accuracy", "macro_f1", "mcc", "ece", "brier"}
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
        assert "|rows:" in scores["accuracy"]["signature"]
    rows = about_labels.read_json("comparisons.json")
    assert {(row["a"], row["b"]) for row in rows} == {("tuned", "base"), ("tuned", "majority"), ("tuned", "tfidf")}
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_summary_adds_up(about_labels: Artifact) -> None:
    summary = about_labels.read_json("summary.json")
    assert (summary["task"], summary["rows"], summary["labels"]) == ("label", 30, ["account", "billing", "delivery"])
    assert summary["order"] == ["tuned", "base", "majority", "tfidf"]
    assert (summary["subject"], summary["main_metric"]) == ("tuned", "accuracy")
    for confusion in summary["confusions"]:
        assert sum(map(sum, confusion["counts"])) == 30
    of_base = [one["f1"]["value"] for one in summary["classes"] if one["model"] == "base"]
    macro = about_labels.read_json("metrics.json")["models"]["base"]["macro_f1"]["value"]
    assert sum(of_base) / 3 == pytest.approx(macro)
    for reliability in summary["reliability"]:
        assert sum(one["rows"] for one in reliability["bins"]) == 30
    of_channel = [one for one in summary["slices"] if one["model"] == "tuned" and one["name"] == "channel"]
    assert {one["value"]: one["rows"] for one in of_channel} == {"mail": 10, "phone": 10, "web": 10}
    of_base = {one["value"]: one["score"]["value"] for one in summary["slices"] if one["model"] == "base"}
    for one in of_channel:
        assert (one["gain"]["a"], one["gain"]["b"], one["gain"]["rows"]) == ("tuned", "base", 10)
        assert one["gain"]["difference"] == pytest.approx(one["score"]["value"] - of_base[one["value"]])
    gains = [one["gain"] for one in summary["slices"] if one["gain"] is not None]
    assert {one["model"] for one in summary["slices"] if one["gain"] is not None} == {"tuned"}
    assert [one["p_holm"] for one in gains] == pytest.approx(adjust_holm([one["p"] for one in gains]))
    comparison = next(
        row for row in about_labels.read_json("comparisons.json") if (row["b"], row["metric"]) == ("base", "accuracy")
    )
    assert (len(summary["fixed"]), len(summary["broken"])) == (comparison["fixed"], comparison["broken"])
    assert all(row["correct"]["tuned"] and not row["correct"]["base"] for row in summary["fixed"])


def test_the_plain_classifier_wins_in_the_first_words(about_labels: Artifact) -> None:
    """Random weights against words that decide the class."""
    summary = about_labels.read_json("summary.json")
    assert summary["verdict_sentence"].startswith("A plain classifier")
    assert "TF-IDF with logistic regression" in summary["verdict_sentence"]
    assert [row["b"] for row in summary["headline"]] == ["base", "tfidf"]


def test_scores_are_log_probabilities_of_whole_answers(
    about_labels: Artifact, labels: Artifact, base: Artifact
) -> None:
    """Against transformers alone, one row and one option at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    frame = pl.read_parquet(about_labels.path("predictions.parquet")).filter(pl.col("model") == "base")
    task = read_held_out_task(labels, "test", None)
    for row in (0, 13, 29):
        asked = task.examples[row]
        told = json.loads(frame["scores"][row])
        for label in task.labels:
            turns = [{"role": one.role, "content": one.content} for one in asked.messages[:-1]]
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            answer = [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model(torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
            expected = torch.log_softmax(logits.double(), -1)[range(len(answer)), answer].sum()
            assert told[label] == pytest.approx(float(expected), abs=1e-4)


def test_neighbours_and_chunks_change_nothing(
    store: Store, labels: Artifact, tuned: Artifact, about_labels: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pl.read_parquet(about_labels.path("predictions.parquet"))
    monkeypatch.setattr(local_model, "CHOOSING", 5)
    monkeypatch.setattr(local, "PACK_TOKENS", 200)
    few = made(store, Evaluate(data="data", model="tune", limit=11, dtype="float32"), {"data": labels, "model": tuned})
    part = pl.read_parquet(few.path("predictions.parquet"))
    both = part.filter(pl.col("model").is_in(["tuned", "base"])).join(whole, on=["id", "model"])
    assert both.height == 22
    for mine, other in zip(both["scores"], both["scores_right"], strict=True):
        assert json.loads(mine) == pytest.approx(json.loads(other), abs=1e-4)
    assert "11 of the 30 rows" in few.read_json("summary.json")["notes"][0]


class Killed(BaseException):
    """As if the process had gone."""


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_evaluation_ends_in_the_same_bytes(
    store: Store, labels: Artifact, tuned: Artifact, about_labels: Artifact, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(local_model, "CHOOSING", 8)
    step, inputs = Evaluate(data="data", model="tune", dtype="float32"), {"data": labels, "model": tuned}
    undisturbed = work_of(store, step, inputs, seed=8)[1]
    step.make(undisturbed)
    expected = bytes_of(undisturbed.folder)
    shutil.rmtree(undisturbed.scratch)
    undisturbed.scratch.mkdir()

    asked: list[int] = []
    answer = local_model.LocalEvalModel.answer

    def until_killed(self: local_model.LocalEvalModel, examples: Sequence[Example], task: HeldOutTask) -> Any:
        asked.append(len(examples))
        if len(asked) == after + 1:
            raise Killed
        return answer(self, examples, task)

    monkeypatch.setattr(local_model.LocalEvalModel, "answer", until_killed)
    with pytest.raises(Killed):
        step.make(work_of(store, step, inputs, seed=8)[1])
    again = work_of(store, step, inputs, seed=8)[1]
    step.make(again)
    assert bytes_of(again.folder) == expected
    assert len(asked) == 2 * 4 + 1  # what was finished before the kill is not asked again


def test_baselines_learn_from_what_the_model_learnt(
    store: Store, labels: Artifact, tuned: Artifact, base: Artifact
) -> None:
    from luthier.eval.evaluator import select_trained_rows

    train = label_examples()[:60]
    assert [one.id for one in select_trained_rows(tuned, train)] == [one.id for one in train[:40]]
    assert select_trained_rows(base, train) == train


def test_a_further_model_is_compared_in_pairs_and_gated(
    store: Store, labels: Artifact, base: Artifact, tuned: Artifact, about_labels: Artifact
) -> None:
    """Held against its own base, a model comes out as it does beside its base."""
    step = Evaluate(
        data="data", model="tune", dtype="float32", compare_with="released", compare_base=False, baselines=()
    )
    found = made(store, step, {"data": labels, "model": tuned, "compare_with": base})
    summary = found.read_json("summary.json")
    assert summary["order"] == ["tuned", "against"]
    assert summary["digests"] == {"tuned": tuned.digest, "against": base.digest}
    assert [row["role"] for row in summary["models"]] == ["tuned", "other"]

    def pairs(evaluation: Artifact, other: str) -> dict[str, tuple[float, float, float]]:
        rows = evaluation.read_json("comparisons.json")
        return {row["metric"]: (row["difference"], row["low"], row["high"]) for row in rows if row["b"] == other}

    assert pairs(found, "against") == pairs(about_labels, "base")
    gate = Gate(evaluation="report", rules=("accuracy >= against - 1",))
    verdict = made(store, gate, {"evaluation": found}).read_json("gate.json")
    assert verdict["verdict"] == "PASS"
    assert "of against" in verdict["rules"][0]["why"]


@pytest.mark.parametrize("normalize", ["mean", "prior"])
def test_normalizations(store: Store, labels: Artifact, base: Artifact, normalize: Any) -> None:
    step = Evaluate(data="data", normalize=normalize, baselines=(), limit=6, dtype="float32", metrics=("accuracy",))
    found = made(store, step, {"data": labels, "model": base})
    frame = pl.read_parquet(found.path("predictions.parquet"))
    assert frame["model"].unique().to_list() == ["base"]
    assert all(math.isfinite(score) for row in frame["scores"] for score in json.loads(row).values())
    assert found.read_json("comparisons.json") == []


def test_texts(store: Store, texts: Artifact, tuned: Artifact) -> None:
    heard: list[RunEvent] = []
    step = Evaluate(data="data", model="tune", max_new_tokens=8, dtype="float32")
    found = made(store, step, {"data": texts, "model": tuned}, heard)
    frame = pl.read_parquet(found.path("predictions.parquet"))
    assert frame.filter(pl.col("model") == "tuned").height == 12
    assert frame["correct"].null_count() == frame.height
    assert set(found.read_json("metrics.json")["models"]["tuned"]) == {"rougeL", "chrf", "token_f1", "exact_match"}
    summary = found.read_json("summary.json")
    assert len(summary["samples"]) == 12
    cut = frame.filter(~pl.col("finished")).height
    assert cut == 0 or any("cut at the limit" in event.text for event in heard if event.kind == "warning")


def test_perplexity_of_references(store: Store, texts: Artifact, base: Artifact) -> None:
    step = Evaluate(data="data", metrics=("perplexity",), max_new_tokens=1, dtype="float32")
    found = made(store, step, {"data": texts, "model": base})
    perplexity = found.read_json("metrics.json")["models"]["base"]["perplexity"]["value"]
    assert 100 < perplexity < 2000  # random weights over 400 tokens


def test_slices_leave_out_who_has_no_likelihoods(store: Store, base: Artifact) -> None:
    rows = [
        example(row["message"], f"You wrote: {row['message']}", None, number, channel=("mail", "web")[number % 2])
        for number, row in enumerate(tickets(40))
    ]
    step = Evaluate(data="data", metrics=("perplexity", "rougeL"), max_new_tokens=1, dtype="float32")
    found = made(store, step, {"data": dataset(store, rows[:16], rows[16:]), "model": base})
    assert set(found.read_json("metrics.json")["models"]) == {"base", "nearest"}
    assert {(one["model"], one["value"]) for one in found.read_json("summary.json")["slices"]} == {
        ("base", "mail"),
        ("base", "web"),
    }


@pytest.mark.parametrize(
    ("task", "settings", "field", "says"),
    [
        ("text", {"metrics": ["rougeL", "accuracy"]}, "metrics.1", "accuracy is about classes, and the data set holds"),
        ("text", {"metrics": ["brier"]}, "metrics.0", "brier needs scores of labels"),
        ("label", {"metrics": ["accuracy", "rougeL"]}, "metrics.1", "rougeL is about texts, and the data set holds"),
        ("label", {"metrics": ["perplexity"]}, "metrics.0", "perplexity is about texts"),
        ("label", {"baselines": ["majority", "lead"]}, "baselines.1", "baseline 'lead' cannot do tasks of labels"),
        ("label", {"reward_model": "judge"}, "reward_model", "judges written answers"),
    ],
)
def test_what_rows_rule_out_is_refused_before_anything_is_made(
    task: str, settings: dict[str, Any], field: str, says: str
) -> None:
    step = Evaluate.model_validate({"data": "data", "model": "tune", **settings})
    outlook = PlanContext(
        inputs={}, upstream={}, recipe_dir=Path(), outlines={"data": ArtifactSpec(task=task, rows={"test": 4})}
    )
    with pytest.raises(RecipeError, match=says) as caught:
        step.estimate_cost(outlook)
    assert caught.value.where.field == field
    if "metrics" in settings:
        usual = "rougeL, chrf, token_f1, exact_match" if task == "text" else "accuracy, macro_f1, mcc, ece, brier"
        assert caught.value.hint.startswith(f"metrics that apply: {usual}, ")


def test_what_an_endpoint_does_not_tell_is_refused_before_it_is_asked() -> None:
    outlines = {"data": ArtifactSpec(task="text", rows={"test": 4}), "model": ArtifactSpec(remote=True)}
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=Path(), outlines=outlines)
    with pytest.raises(RecipeError, match="perplexity needs logprobs, which this endpoint's answers do not have"):
        Evaluate(data="data", metrics=("perplexity",)).estimate_cost(outlook)
    Evaluate(data="data", metrics=("chrf",)).estimate_cost(outlook)
    by_text = BaseModelStep(source=EndpointModelSource(url="http://127.0.0.1:1/v1", model="theirs", labels="text"))
    outlines = {"data": ArtifactSpec(task="label", rows={"test": 4}), "model": ArtifactSpec(remote=True)}
    outlook = PlanContext(inputs={}, upstream={"model": by_text}, recipe_dir=Path(), outlines=outlines)
    with pytest.raises(RecipeError, match="brier needs label_scores, which this endpoint's answers do not have"):
        Evaluate(data="data", metrics=("accuracy", "brier")).estimate_cost(outlook)


def test_what_cannot_be_is_refused(store: Store, texts: Artifact, labels: Artifact, base: Artifact) -> None:
    with pytest.raises(RecipeError, match="needs scores of labels"):
        made(store, Evaluate(data="data", metrics=("ece",)), {"data": texts, "model": base})
    with pytest.raises(RecipeError, match="about texts"):
        made(store, Evaluate(data="data", metrics=("perplexity",)), {"data": labels, "model": base})
    with pytest.raises(RecipeError, match="cannot do tasks of texts"):
        made(store, Evaluate(data="data", baselines=("tfidf",)), {"data": texts, "model": base})
    with pytest.raises(RecipeError, match="no split"):
        made(store, Evaluate(data="data", split="validation"), {"data": labels, "model": base})


def test_one_label_is_refused(store: Store, base: Artifact) -> None:
    from eval.evaluations import dataset

    same = [example(f"text {n}", "billing", "billing", n) for n in range(6)]
    with pytest.raises(DataError, match="at least two"):
        made(store, Evaluate(data="data"), {"data": dataset(store, same[:3], same[3:]), "model": base})


def test_forecast_needs_no_torch(store: Store, labels: Artifact, base: Artifact) -> None:
    step = Evaluate(data="data")
    outlook = PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path())
    first = step.estimate_cost(outlook)
    assert first.seconds is not None
    assert first.tokens is not None
    assert 30 * 20 < first.tokens < 30 * 100
    assert first.how.startswith("30 rows, tokens counted in 30 of them")
    model = describe_model_folder(find_base_folder(base))
    paces = [
        {"flops_per_s": 1.0, "parameters": model.parameters, "task": "text"},
        {"flops_per_s": 1.0, "parameters": 4 * model.parameters, "task": "label"},
        {"flops_per_s": 1e6, "parameters": 2 * model.parameters, "task": "label"},
    ]
    later = step.estimate_cost(
        PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path(), paces=paces)
    )
    assert later.how.endswith("1 model at 0 GFLOP/s, as the last such step on this machine")
    assert later.seconds is not None
    rows = estimate_rows(None, outlook, "test")
    assert rows is not None
    inner = model.parameters - model.embedding_parameters
    flops = 2 * inner * (30 * (rows.tokens - rows.shared) + rows.shared)
    others = count_branch_tokens(DatasetSummary.read(labels).labels, find_base_folder(base)) - rows.answers
    flops += 2 * (inner + model.vocab * model.hidden_size) * 30 * others  # each row's other classes, and the head
    assert later.seconds == pytest.approx(estimate_overhead_seconds(1, 30) + flops / 1e6)
    assert step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=Path())).seconds is None


def asked(answer: str) -> dict[str, Any]:
    """A row as an outline keeps it."""
    return dump_spec_example(example("Where is it?", answer, answer, 1))


def test_an_evaluation_of_a_model_that_is_not_made_yet_counts_by_the_one_it_stands_on(
    labels: Artifact, base: Artifact
) -> None:
    outlines = {"model": Tune(data="data").outline(PlanContext(inputs={"model": base}, upstream={}, recipe_dir=Path()))}
    first = estimate_rows(
        None, PlanContext(inputs={"data": labels}, upstream={}, recipe_dir=Path(), outlines=outlines), "test"
    )
    assert first == estimate_rows(
        None, PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path()), "test"
    )


def test_pairs_that_are_not_made_yet_are_not_written(
    store: Store, base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.models.cost.measure_flops_per_s", lambda *, bf16: 1e9)
    some = [dump_spec_example(one) for one in read_examples(pairs_of(store), "test")]
    outlines = {"data": ArtifactSpec(rows={"test": 40}, examples=some)}
    outlook = PlanContext(inputs={"model": base}, upstream={}, recipe_dir=Path(), outlines=outlines)
    few, many = (Evaluate(data="data", max_new_tokens=most).estimate_cost(outlook).seconds for most in (1, 900))
    assert few == many


def test_writing_is_foreseen_token_by_token(
    store: Store, texts: Artifact, labels: Artifact, base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base model writes as much as it may, a tuned one as much as rows do; classes are not written."""
    monkeypatch.setattr("luthier.eval.cost.estimate_decode_step_seconds", lambda *sizes, bf16: float(sizes[2]))
    monkeypatch.setattr("luthier.models.cost.measure_flops_per_s", lambda *, bf16: 1e15)

    def seconds(data: Artifact | ArtifactSpec, *, tuned: bool = False, **settings: Any) -> float:
        """Of 12 rows by one model or two, where a token takes a second."""
        made = {"data": data} if isinstance(data, Artifact) else {}
        told = {"data": data} if isinstance(data, ArtifactSpec) else {}
        upstream = {"model": Tune(data="data")} if tuned else {}
        outlook = PlanContext(inputs={**made, "model": base}, upstream=upstream, recipe_dir=Path(), outlines=told)
        found = Evaluate(data="data", limit=12, **settings).estimate_cost(outlook).seconds
        assert found is not None
        return found - estimate_overhead_seconds(1 + tuned, 12)

    rows = estimate_rows(12, PlanContext(inputs={"data": texts, "model": base}, upstream={}, recipe_dir=Path()), "test")
    assert rows is not None
    assert 4 < rows.answers < 64
    assert seconds(texts, max_new_tokens=64) == pytest.approx(12 * 64, abs=0.01)
    assert seconds(texts, max_new_tokens=64, tuned=True) == pytest.approx(12 * (rows.answers + 64), abs=0.01)
    assert seconds(texts, max_new_tokens=4, tuned=True) == pytest.approx(12 * (4 + 4), abs=0.01)
    assert seconds(labels) == pytest.approx(0, abs=0.01)
    short, long = (ArtifactSpec(rows={"test": 40}, examples=[asked(answer)]) for answer in ("yes", "yes " * 40))
    assert seconds(short) == pytest.approx(0, abs=0.01)
    assert seconds(replace(short, task="text"), max_new_tokens=7) == pytest.approx(12 * 7, abs=0.01)
    assert seconds(long, max_new_tokens=7) == pytest.approx(12 * 7, abs=0.01)
    assert seconds(replace(long, task="label")) == pytest.approx(0, abs=0.01)
    assert seconds(pairs_of(store)) == pytest.approx(0, abs=0.01)
    assert seconds(pairs_of(store), pairs=False, max_new_tokens=7) == pytest.approx(12 * 7, abs=0.01)


def test_many_classes_cost_more_than_two(base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every class is read for every row, but by a model that has a head of classes, or where text is written."""
    monkeypatch.setattr("luthier.models.cost.measure_flops_per_s", lambda *, bf16: 1e6)

    def seconds(classes: int, **more: Any) -> float:
        """Of what is computed for 12 rows whose data set is not made yet."""
        names = [f"{number:02d} of the classes" for number in range(classes)]
        told = ArtifactSpec(
            rows={"test": 40}, examples=[asked(names[-1] if names else "none")], answers=names, task="label"
        )
        outlook = PlanContext(inputs=more.pop("made", {"model": base}), upstream={}, recipe_dir=Path(),
                          outlines={"data": told, **more})  # fmt: skip
        found = Evaluate(data="data", limit=12, compare_base=False).estimate_cost(outlook).seconds
        assert found is not None
        return found - estimate_overhead_seconds(1, 12)

    assert 15 < (seconds(60) - seconds(0)) / (seconds(3) - seconds(0)) < 40
    size = describe_model_folder(find_base_folder(base)).parameters
    headed = ArtifactSpec(parameters=size, headed=True)
    assert seconds(60, made={}, model=headed) == seconds(3, made={}, model=headed)
    assert seconds(60, made={}, model=replace(headed, headed=False)) > 4 * seconds(60, made={}, model=headed)


def test_what_models_compute_in_is_foreseen(labels: Artifact, base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where the processor multiplies it: another speed than that of fp32, less memory, and a pace of its own."""
    monkeypatch.setattr("luthier.eval.cost.cpu_has_bf16", lambda: True)
    monkeypatch.setattr("luthier.models.cost.measure_flops_per_s", lambda *, bf16: 4e6 if bf16 else 1e6)
    monkeypatch.setattr("luthier.eval.cost.estimate_kernel_cache_bytes", lambda packs, model, *, bf16, learns: 0)
    outlook = PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path())
    wide, narrow = (Evaluate(data="data", dtype=dtype).estimate_cost(outlook) for dtype in ("float32", "auto"))
    assert "at 0 GFLOP/s" in wide.how
    assert wide.seconds is not None
    assert narrow.seconds is not None
    beside = estimate_overhead_seconds(1, 30)
    assert wide.seconds - beside == pytest.approx(4 * (narrow.seconds - beside))
    reading = _ALONE_READING_BYTES - _READING_BYTES
    assert wide.peak_bytes - narrow.peak_bytes == describe_model_folder(find_base_folder(base)).parameters + reading
    size = describe_model_folder(find_base_folder(base)).parameters
    paces = [{"flops_per_s": 1e9, "parameters": size, "task": "label", "bf16": True, "step": "tune"}]
    later = PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path(), paces=paces)
    wide, narrow = (Evaluate(data="data", dtype=dtype).estimate_cost(later) for dtype in ("float32", "auto"))
    gain = estimate_matmul_speedup(bf16=True) / estimate_matmul_speedup(bf16=False)
    assert (wide.seconds or 0) - beside == pytest.approx(gain * ((narrow.seconds or 0) - beside))
    assert "as the last tune step on this machine" in narrow.how


def test_a_pace_is_of_answers_that_were_made(store: Store, labels: Artifact, base: Artifact) -> None:
    """What an earlier try answered is read in no time, and says nothing of the next evaluation."""
    step = Evaluate(data="data", baselines=())
    inputs = {"data": labels, "model": base}
    _, work = work_of(store, step, inputs, more="pace")
    first = step.make(work)
    assert first["flops_per_s"] > 0
    again = step.make(work_of(store, step, inputs, more="pace")[1])
    assert "flops_per_s" not in again
    few = step.model_copy(update={"limit": 20})
    assert "flops_per_s" not in few.make(work_of(store, few, inputs, more="few")[1]), "mostly the opening of the model"
    assert first["flops_per_cpu_s"] > 0
    next(iter((work.scratch / "answers").glob("*.json"))).unlink()
    assert step.make(work_of(store, step, inputs, more="pace")[1])["flops_per_s"] > 0


def test_turns_are_not_forecast_by_rows(labels: Artifact, base: Artifact) -> None:
    outlook = PlanContext(inputs={"data": labels, "model": base}, upstream={}, recipe_dir=Path())
    told = Evaluate(data="data", turns="all").estimate_cost(outlook)
    assert told.seconds is None
    assert "30 conversations" in told.how


def test_stored_predictions_are_enough(store: Store) -> None:
    found = evaluation(store, {"tuned": 0.9, "base": 0.5, "tfidf": 0.7})
    summary = found.read_json("summary.json")
    assert summary["verdict_sentence"].startswith("The tuned model is better than the base model")
    assert len(summary["fixed"]) <= 50
    lost = evaluation(store, {"tuned": 0.6, "base": 0.5, "tfidf": 0.9}).read_json("summary.json")
    assert lost["verdict_sentence"].startswith("A plain classifier wins: the tfidf model beats the tuned model by 30")


def test_group_gap_is_measured_for_every_model(store: Store) -> None:
    probe = {"kind": "group_gap", "column": "channel", "min": 10}
    found = evaluation(store, {"tuned": 0.9, "base": 0.5}, probes=(probe,))
    measures = found.read_json("metrics.json")["measures"]
    for model in ("tuned", "base"):
        gap = measures[model]["bias.gap"]
        assert gap["value"] == pytest.approx(max(gap["detail"].values()) - min(gap["detail"].values()))
        assert gap["low"] <= gap["value"] <= gap["high"]
    with pytest.raises(RecipeError, match="channel"):
        evaluation(store, {"tuned": 0.9, "base": 0.5}, probes=({"kind": "group_gap", "column": "chanel"},))


def test_tasks_are_asked_compared_and_gated(store: Store, labels: Artifact, tuned: Artifact, tmp_path: Path) -> None:
    from eval.lm_eval.test_harness import write

    file = write(tmp_path, num_fewshot=1, metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
    step = Evaluate(data="data", model="tune", tasks=({"kind": "lm_eval", "path": str(file), "data": str(tmp_path)},))
    found = made(store, step, {"data": labels, "model": tuned})
    measures = found.read_json("metrics.json")["measures"]
    assert set(measures["tuned"]) == {"sums.acc", "sums.acc_norm", "sums.drop"}
    assert set(measures["base"]) == {"sums.acc", "sums.acc_norm"}
    drop, lost = (
        measures["tuned"]["sums.drop"],
        measures["base"]["sums.acc"]["value"] - measures["tuned"]["sums.acc"]["value"],
    )
    assert drop["value"] == pytest.approx(lost)
    assert drop["low"] <= lost <= drop["high"]
    pairs = [row for row in found.read_json("comparisons.json") if row["metric"].startswith("sums")]
    assert [(row["a"], row["b"], row["metric"]) for row in pairs] == [
        ("tuned", "base", "sums.acc"),
        ("tuned", "base", "sums.acc_norm"),
    ]
    frame = pl.read_parquet(found.path("tasks.parquet"))
    assert frame.group_by("model").len()["len"].to_list() == [6, 6]
    shares = [json.loads(one)["acc"] for one in frame.filter(pl.col("model") == "tuned")["scores"]]
    assert sum(shares) / 6 == pytest.approx(measures["tuned"]["sums.acc"]["value"])
    assert measures["tuned"]["sums.acc"]["rows"] == 6
    gate = made(
        store,
        Gate(evaluation="report", rules=("sums.acc >= 0", "sums.drop <= 1", "sums.acc > base")),
        {"evaluation": found},
    )
    verdicts = [rule_result["verdict"] for rule_result in gate.read_json("gate.json")["rules"]]
    assert verdicts[:2] == ["PASS", "PASS"]
    with pytest.raises(RecipeError, match="was not measured"):
        made(store, Gate(evaluation="report", rules=("sum.acc >= 0",)), {"evaluation": found})
    with pytest.raises(RecipeError, match="asked twice"):
        made(
            store,
            Evaluate(data="data", model="tune", tasks=(*step.tasks, *step.tasks)),
            {"data": labels, "model": tuned},
        )
