"""Rows dealt to simulated sites: every row once, shares that follow their distribution, and the bytes of real sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from pydantic import ValidationError

from federations import LORA, Sites, build_sites
from luthier.artifacts.dataset import read_examples
from luthier.core.errors import DataError, RecipeError
from luthier.core.step import PlanContext
from luthier.federated.partition import PartitionSettings, partition_rows, write_site_rows
from luthier.federated.steps.federate import Federate
from luthier.models.load import load_model
from luthier.recipe.schema import Recipe
from tuning import examples

ROWS = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    rows = [example.model_copy(update={"meta": {"branch": "abc"[at % 3]}}) for at, example in enumerate(examples(ROWS))]
    return build_sites(tmp_path_factory.mktemp("whole"), {"all": rows})


def deal(sites: Sites, **settings: Any) -> dict[str, list[int]]:
    return partition_rows(PartitionSettings(**settings), sites.data["all"], 5)


@pytest.mark.parametrize("settings", [{"number": 7}, {"number": 7, "alpha": 0.1}, {"column": "branch"}])
def test_each_row_is_at_one_site(whole: Sites, settings: dict[str, Any]) -> None:
    parts = deal(whole, **settings)
    assert sorted(place for places in parts.values() for place in places) == list(range(ROWS))
    assert all(parts.values())
    assert deal(whole, **settings) == parts
    if "number" in settings:
        assert partition_rows(PartitionSettings(**settings), whole.data["all"], 6) != parts


def test_rows_are_dealt_evenly_or_by_a_column(whole: Sites) -> None:
    assert sorted(map(len, deal(whole, number=7).values())) == [8, 8, 8, 9, 9, 9, 9]
    parts = deal(whole, column="branch")
    assert list(parts) == ["a", "b", "c"]
    assert parts["b"] == list(range(1, ROWS, 3))
    assert set(deal(whole, column="label")) == {"account", "billing", "delivery"}


def test_shares_of_classes_follow_alpha(whole: Sites) -> None:
    labels = [example.label for example in read_examples(whole.data["all"], "train")]

    def measure_purity(alpha: float) -> float:
        """The mean share of a site's most frequent class."""
        shares = []
        for places in deal(whole, number=5, alpha=alpha).values():
            _, counts = numpy.unique([labels[at] for at in places], return_counts=True)
            shares.append(counts.max() / counts.sum())
        return float(numpy.mean(shares))

    assert measure_purity(0.05) > 0.8
    assert measure_purity(1000.0) < 0.6


def test_small_sites_are_filled_from_large_ones(whole: Sites) -> None:
    assert min(map(len, deal(whole, number=12, alpha=0.01, min_rows=4).values())) >= 4
    assert all(len(places) == 5 for places in deal(whole, number=12, alpha=0.01, min_rows=5).values())


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"number": 61}, DataError, "60 training rows are too few for 61 sites of 1 or more"),
        ({"column": "branche"}, RecipeError, "no training row has a column 'branche'"),
        ({"column": "branch", "min_rows": 30}, DataError, "has 0 values of 30 or more"),
    ],
)
def test_what_cannot_be_dealt_is_said(
    whole: Sites, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        deal(whole, **settings)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"partition": {}}, "give the `number` of sites, or the `column`"),
        ({"partition": {"column": "branch", "alpha": 0.1}}, "`alpha` is for a `number`"),
        ({"sites": ("a", "b")}, "name one step in `sites`"),
        ({"secure": {}}, "leave `secure` out"),
        ({"metrics": ["accuracy"]}, "use a step `evaluate`"),
        ({"sites_per_round": 9}, "there are 4 sites, and `sites_per_round` is 9"),
    ],
)
def test_what_simulated_sites_cannot_do_is_refused(changes: dict[str, Any], match: str) -> None:
    settings = {"kind": "federate", "sites": ("all",), "partition": {"number": 4}, **changes}
    with pytest.raises(ValidationError, match=match):
        Federate.model_validate(settings)


def test_a_misspelt_setting_is_named_with_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "luthier: 1\nname: many\nmodel: smollm2-135m-instruct\nsteps:\n"
        "  data: {kind: prepare, source: {kind: csv, path: rows.csv}}\n"
        "  many: {kind: federate, sites: [data], partition: {number: 5, alfa: 0.1}}\n"
    )
    with pytest.raises(RecipeError, match="there is no setting 'alfa' here") as caught:
        Recipe.load(path)
    assert caught.value.hint == "did you mean 'alpha'?"


def files(artifact: Any) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files if entry.path != "training.json"}


@pytest.mark.matrix("*stack")
@pytest.mark.parametrize(
    ("technique", "aggregator"), [(LORA, "ffa"), (LORA, "stack"), ({"kind": "full"}, "mean")]
)  # fmt: skip
def test_simulated_sites_make_the_bytes_of_real_ones(
    tmp_path: Path, technique: dict[str, Any], aggregator: str
) -> None:
    rows = examples(18)
    plain = build_sites(tmp_path / "plain", {"all": rows})
    parts = deal(plain, number=3)
    real = build_sites(tmp_path / "real", {name: [rows[at] for at in places] for name, places in parts.items()})
    tune = {"technique": technique}
    made = plain.federate(plain.step(["all"], partition={"number": 3}, sum=aggregator, tune=tune), seed=5)
    other = real.federate(real.step(list(parts), sum=aggregator, tune=tune), seed=5)
    assert files(made) == files(other)


def test_the_base_is_opened_once(whole: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    from luthier.tune import run

    open_plain = run.TrainingRun._open

    def count(self: Any, dtype: Any, about: Any) -> Any:
        opened.append(1)
        return open_plain(self, dtype, about)

    monkeypatch.setattr(run.TrainingRun, "_open", count)
    step = whole.step(["all"], partition={"number": 10}, sites_per_round=4, rounds=2, sum="ffa")
    made = whole.federate(step)
    assert len(opened) == 3  # to begin with, for all sites and rounds, and to write the model
    rounds = made.read_json("federation.json")["rounds"]
    assert [len(entry["sites"]) for entry in rounds] == [4, 4]
    assert set(rounds[0]["sites"]) != set(rounds[1]["sites"])
    assert load_model(made).model is not None


def test_a_killed_simulation_goes_on_to_the_same_bytes(whole: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.sites.worker import SiteWorker

    step = whole.step(["all"], partition={"number": 6, "alpha": 0.5, "min_rows": 4}, rounds=2, sum="ffa")
    right = files(whole.federate(step, digest="a" * 32))
    answer, count = SiteWorker.answer, 0

    def dying(self: SiteWorker, number: int, content: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 15:  # six orders, six updates, and the third of round 2
            raise KeyboardInterrupt
        return answer(self, number, content)

    monkeypatch.setattr(SiteWorker, "answer", dying)
    with pytest.raises(KeyboardInterrupt):
        whole.federate(step, digest="b" * 32)
    assert files(whole.federate(step, digest="b" * 32)) == right


def test_the_plan_counts_a_round_of_simulated_sites(whole: Sites) -> None:
    def plan(**settings: Any) -> Any:
        step = whole.step(["all"], sum="ffa", **settings)
        inputs = {"sites.0": whole.data["all"], "model": whole.base}
        return step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=Path()))

    all_sites, half = plan(partition={"number": 10}), plan(partition={"number": 10}, sites_per_round=5)
    assert half.tokens == pytest.approx(all_sites.tokens / 2, rel=0.01)
    assert "the coordinator can see the update of each site" in all_sites.statement


@pytest.mark.matrix("settings1")
@pytest.mark.parametrize(
    "settings",
    [
        {"robust": "median"},
        {"robust": {"kind": "krum", "poisoned": 1}, "sites_per_round": 5},
        {"privacy": {"unit": "site", "epsilon": 50.0, "delta": 1e-2, "clip": 0.1}, "sites_per_round": 4},
    ],
)
def test_robust_rules_and_privacy_work_over_simulated_sites(whole: Sites, settings: dict[str, Any]) -> None:
    common: dict[str, Any] = {"partition": {"number": 6}, "rounds": 2, "sum": "ffa"}
    plain = files(whole.federate(whole.step(["all"], **common)))
    made = whole.federate(whole.step(["all"], **common, **settings))
    assert files(made) != plain, "the setting changes the weights"
    drawn = settings.get("sites_per_round", 6)
    assert [len(entry["sites"]) for entry in made.read_json("federation.json")["rounds"]] == [drawn, drawn]


def test_site_rows_know_their_data_set(whole: Sites, tmp_path: Path) -> None:
    made = write_site_rows(whole.data["all"], [3, 5], tmp_path, "d" * 32)
    assert [row.id for row in read_examples(made, "train")] == [
        read_examples(whole.data["all"], "train")[at].id for at in (3, 5)
    ]
    assert made.parent("data").digest == whole.data["all"].digest
