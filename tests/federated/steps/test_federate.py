"""A federation equals a plain training where there is one site, goes on after a kill, and refuses what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import LORA, TRAINING, Sites
from luthier.core.errors import LuthierError
from luthier.core.step import PlanContext
from luthier.federated import coordinator
from luthier.federated.local_training import FederatedTraining, RoundSampler
from luthier.federated.sites.worker import SiteWorker
from luthier.tune.steps.tune import Tune
from luthier.tune.training.schedule import BatchSampler

FULL = {"kind": "full"}
GRPO = {
    "kind": "grpo", "rewards": [{"kind": "regex", "pattern": "[a-m]"}], "rollout": {"max_completion_length": 3}
}  # fmt: skip
ADAPTER = "adapter/adapter_model.safetensors"


def files(artifact: Any) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files}


def test_one_site_in_one_round_is_a_plain_training(sites: Sites) -> None:
    settings = {"technique": FULL, "lr_scheduler": "cosine"}
    step = sites.step(["north"], rounds=1, sum="mean", local={"epochs": 2.5}, tune=settings)
    plain = Tune.model_validate({"data": "data", "epochs": 2.5, **TRAINING, **settings})
    one, other = files(sites.federate(step)), files(sites.tune(plain, "north"))
    assert one["model.safetensors"] == other["model.safetensors"]


def test_so_is_one_by_lora(sites: Sites) -> None:
    made = sites.federate(sites.step(["north"], rounds=1, sum="factors"))
    plain = sites.tune(Tune.model_validate({"data": "data", "technique": LORA, **TRAINING}), "north")
    assert files(made)[ADAPTER] == files(plain)[ADAPTER]


def test_rounds_are_slices_of_one_training() -> None:
    whole = BatchSampler(seed=4, count=10, epochs=3.0, batch_size=4)
    rounds = [RoundSampler.for_round(whole, number, 3) for number in range(3)]
    assert sum(one.steps for one in rounds) == whole.steps
    seen = [one.get_batch_indices(step) for one in rounds for step in range(one.steps)]
    assert seen == [whole.get_batch_indices(step) for step in range(whole.steps)]
    rates = [one.compute_rate_factor(step, "linear", 1, 0.2) for one in rounds for step in range(one.steps)]
    assert rates == [whole.compute_rate_factor(step, "linear", 1, 0.2) for step in range(whole.steps)]
    assert len({one.seed for one in rounds}) == 3
    with pytest.raises(LuthierError, match="too few for 9 rounds"):
        RoundSampler.for_round(whole, 0, 9)


def test_a_killed_coordinator_goes_on_to_the_same_bytes(fresh: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    step = fresh.step(sum="residual", rounds=2, server=None)
    whole = files(fresh.federate(step, digest="a" * 32))
    answer, count = SiteWorker.answer, 0

    def dying(self: SiteWorker, number: int, content: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 8:  # three orders, three updates, and the first of round 2
            raise KeyboardInterrupt
        return answer(self, number, content)

    monkeypatch.setattr(SiteWorker, "answer", dying)
    with pytest.raises(KeyboardInterrupt):
        fresh.federate(step, digest="b" * 32)
    assert (fresh.work(step, digest="b" * 32).scratch / coordinator.STATE).is_file()
    fresh.heard.clear()
    assert files(fresh.federate(step, digest="b" * 32)) == whole
    assert "goes on after round 1" in fresh.said("note")


def test_a_spoilt_state_is_as_good_as_none(fresh: Sites) -> None:
    step = fresh.step(["north", "south"], rounds=1, sum="ffa")
    made = files(fresh.federate(step, digest="a" * 32))
    work = fresh.work(step, digest="b" * 32)
    federation = coordinator.Federation(step, work)
    (work.scratch / coordinator.STATE).write_bytes(b"\0" * 99)
    assert federation._read_state() is None
    assert files(fresh.federate(step, digest="b" * 32)) == made


def test_the_server_and_the_pull_change_the_weights(sites: Sites) -> None:
    settings: dict[str, Any] = {"rounds": 1, "sum": "ffa"}
    plain = load_file(sites.federate(sites.step(**settings)).path(ADAPTER))

    def made(**more: Any) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = load_file(sites.federate(sites.step(**settings, **more)).path(ADAPTER))
        return found

    same = made(server={"kind": "sgd", "momentum": 0.9})
    for name, value in plain.items():
        torch.testing.assert_close(same[name], value, atol=1e-6, rtol=0)  # the first step of SGD at rate 1 is the mean
    drawn = made(proximal=5.0)
    way = sum(float(value.square().sum()) for name, value in plain.items() if "lora_B" in name)
    shorter = sum(float(value.square().sum()) for name, value in drawn.items() if "lora_B" in name)
    assert shorter < 0.9 * way
    yogi = made(server="yogi")
    assert any(not torch.equal(yogi[name], value) for name, value in plain.items())


@pytest.mark.parametrize(
    ("objective", "technique", "aggregator"),
    [
        ("classify", LORA, "alternate"),
        ({"kind": "classify", "head": "sequence"}, LORA, "stack"),
        (GRPO, LORA, "ffa"),
        ("sft", {"kind": "prompt", "num_virtual_tokens": 4}, "mean"),
        ("sft", {"kind": "ia3"}, "mean"),
    ],
)  # fmt: skip
def test_objectives_and_techniques_are_federated(
    sites: Sites, objective: Any, technique: dict[str, Any], aggregator: str
) -> None:
    tune = {"objective": objective, "technique": technique, "learning_rate": 1e-2, "batch_size": 8}
    made = sites.federate(sites.step(["north", "south"], rounds=2, sum=aggregator, tune=tune, local={"steps": 1}))
    rounds = made.read_json("federation.json")["rounds"]
    assert len(rounds) == 2
    assert set(rounds[0]["sites"]) == {"north", "south"}
    record = made.read_json("training.json")
    assert record["federation"]["sites"] == {"north": 24, "south": 16}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bare": {"technique": "plain"}, "sum": "mean"}, "trains no weights that sites could add up"),
    ({"tune": {"technique": {"kind": "lora", "init_lora_weights": "eva"}}}, "eva begins with directions of each site"),
    ({"tune": {"technique": {"kind": "lora", "init_lora_weights": "pissa"}}}, "takes directions out of the base"),
    ({"tune": {"technique": "full"}, "sum": "ffa"}, "full trains whole weights"),
    ({"sum": "mean"}, "lora trains low-rank factors"),
    ({"tune": {"technique": {"kind": "lora", "use_dora": True}}, "sum": "stack"}, "no sum of factors is exact"),
    ({"tune": {"technique": "qlora"}, "sum": "residual"}, "qlora keeps in few bits"),
    ({"tune": {"epochs": 3}}, r"write `local: \{epochs"),
    ({"tune": {"validation": {}}}, "evaluate the model that the federation makes"),
    ({"tune": {"data": "north"}}, "the rows of a federation are those of its sites"),
    ({"sum": "stack", "server": "yogi"}, "follows a mean, and stack is none"),
    ({"sum": "ffa", "server": "schedule_free"}, "averages over steps"),
    ({"server_learning_rate": 0.1}, "changes nothing without a `server`"),
    ({"least": 4}, "there are 3 sites"),
    ({"sum": "alternate", "rounds": 1}, "needs two rounds"),
    ({"local": {"epochs": 1, "steps": 3}}, "one of them"),
    ({"names": ["north", "north"]}, "named twice"),
    ({"names": []}, "name the steps whose data sets"),
    (
        {"tune": {"objective": {"kind": "grpo", "rewards": ["model"]}, "reward_model": "judge"}},
        "no reward model's weights",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_be_federated_is_refused(sites: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sites.step(**settings)


def test_the_plan_says_first_what_the_coordinator_can_see(sites: Sites) -> None:
    step = sites.step(sum="residual")
    context = PlanContext(inputs={"model": sites.base}, upstream={}, recipe_dir=sites.base.folder)
    said = step.estimate_cost(context).statement
    assert said.startswith("the coordinator can see the update of each site")
    assert "residual: exact, impossible under masks" in said
    assert "kB to and" in said
    sent = sites.federate(step).read_json("federation.json")["rounds"][0]
    down, up, other = step.count_trained_numbers(FederatedTraining(
        step.build_site_tune(), sites.work(step), step.sum)._description)  # fmt: skip
    assert sent["up_bytes"] == pytest.approx(
        4 * step.sum.count_numbers(down, up, other, 3).up, rel=0.3
    )  # names and shapes come on top


def test_pooled_metrics_are_those_of_all_rows_together(fresh: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated import measure
    from luthier.metrics.metric import EvalPredictions, Metric

    heard: list[EvalPredictions] = []
    summed = measure.sum_statistics

    def hearing(metric: Metric, answers: EvalPredictions, classes: Any) -> list[float]:
        if metric.kind == "accuracy":
            heard.append(answers)
        return summed(metric, answers, classes)

    monkeypatch.setattr(measure, "sum_statistics", hearing)
    step = fresh.step(["north", "west"], rounds=1, metrics=["accuracy", "macro_f1"], tune={"objective": "classify"})
    found = fresh.federate(step).read_json("federation.json")["metrics"]
    together = EvalPredictions.of(
        [text for answers in heard for text in answers.predictions],
        [text for answers in heard for text in answers.references],
    )
    assert len(heard) == 2
    for name in ("accuracy", "macro_f1"):
        assert found[name]["value"] == pytest.approx(Metric.parse(name).measure(
            together.predictions, together.references).value, abs=1e-12)  # fmt: skip
        assert set(found[name]["sites"]) == {"north", "west"}
    assert found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"]
    with pytest.raises(ValidationError, match="only an objective over classes shares them"):
        fresh.step(metrics=["macro_f1"])
