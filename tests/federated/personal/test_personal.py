"""Parts of a model that stay at each site: they never travel, survive kills, and make each site a model of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import LORA, TRAINING, Sites, build_sites, replace
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.events import RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import PlanContext, StepContext
from luthier.federated.coordinator import Federation
from luthier.federated.messaging.envelopes import FolderPost
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox
from luthier.federated.messaging.messages import FederationMessage, Measured, Order, RoundStart, RoundUpdate
from luthier.federated.personal.site_model import derive_seed
from luthier.federated.sites.policy import SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.state import SiteState
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.steps.federate import Federate
from luthier.federated.steps.site_model import SelectSiteModel
from luthier.federated.transport import LocalChannel
from luthier.models.load import load_model
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from tiny_models import own_cache, small_recipe
from tuning import examples, finish

ADAPTER = "adapter/adapter_model.safetensors"
HEADED = {"objective": {"kind": "classify", "head": "sequence"}, "learning_rate": 1e-2}
FULL_HEADED = {**HEADED, "technique": {"kind": "full"}, "learning_rate": 1e-3}
PARTS: dict[str, dict[str, Any]] = {
    "lora_b": {"personal": "lora_b", "sum": "mean"},
    "head": {"personal": "head", "sum": "ffa", "tune": HEADED},
    "head of all weights": {"personal": "head", "sum": "mean", "tune": FULL_HEADED},
    "adapter": {"personal": {"kind": "adapter", "r": 2, "local": {"steps": 2}}, "sum": "ffa"},
}
PARTS["adapter beside a head"] = {**PARTS["adapter"], "sum": "stack", "tune": HEADED}
STAYS = {"lora_b": "lora_B", "head": "score", "head of all weights": "score"}


RECIPE_OF_SITES = """\
luthier: 1
name: sites
seed: 3
model: tiny-model
steps:
  north: {kind: prepare, source: {kind: csv, path: tickets.csv, prompt: message, answer: category},
    ops: [{kind: part, number: 1, of: 2}],
    split: {test: 8}}
  south: {kind: prepare, source: {kind: csv, path: tickets.csv, prompt: message, answer: category},
    ops: [{kind: part, number: 2, of: 2}],
    split: {test: 8}}
  both:
    kind: federate
    sites: [north, south]
    rounds: 1
    sum: mean
    personal: lora_b
    tune: {technique: {kind: lora, r: 4}, learning_rate: 1.0e-2, batch_size: 8, dtype: float32}
  north_own: {kind: site_model, tuned: both, site: north}
  report: {kind: evaluate, data: north, model: north_own, metrics: [accuracy]}
  gate: {kind: gate, evaluation: report, rules: ["accuracy >= 0.0"]}
"""


def folders(made: Artifact) -> dict[str, Path]:
    """Where the sites' own models are, by site."""
    sites = made.read_json("federation.json")["personal"]["sites"]
    return {name: made.folder / folder for name, folder in sites.items()}


def read(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / ADAPTER if (folder / ADAPTER).is_file() else folder / "model.safetensors"
    found: dict[str, torch.Tensor] = load_file(path)
    return found


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def files(made: Artifact) -> dict[str, str]:
    return {entry.path: entry.digest for entry in made.manifest.files}


def take(sites: Sites, made: Artifact, site: str, base: Artifact | None = None) -> Artifact:
    """What the step `site_model` makes of a federation."""
    digest = digest_of([made.digest, site])
    folder, scratch = sites.store.begin(digest)
    inputs = {"tuned": made, "model": base or sites.base}
    work = StepContext(
        name="own", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=folder, seed=0,
        events=RunEventEmitter(sites.heard.append).of("own"),
    )  # fmt: skip
    SelectSiteModel.model_validate({"kind": "site_model", "tuned": "both", "site": site}).make(work)
    return finish(sites.store, digest, "site_model", "model", {name: one.digest for name, one in inputs.items()})


def logits(artifact: Artifact) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(artifact, "float32").model(torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.parametrize("name", PARTS)
def test_a_part_never_travels_and_every_site_has_a_model_of_its_own(
    name: str, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = list[tuple[bytes, bytes]]()
    exchange = LocalChannel.exchange

    def hearing(self: LocalChannel, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        answers = exchange(self, number, contents)
        heard.extend((contents[site], answers[site]) for site in contents)
        return answers

    monkeypatch.setattr(LocalChannel, "exchange", hearing)
    made = sites.federate(sites.step(["north", "south"], **PARTS[name]))
    rounds = [(one, two) for one, two in heard if b'"kind": "round"' in one[:4000]]
    assert len(rounds) == 4
    for question, answer in rounds:
        tensors = [*FederationMessage.decode(question, RoundStart).tensors]
        tensors += FederationMessage.decode(answer, RoundUpdate).tensors
        assert tensors
        assert not any(STAYS.get(name, "nothing") in entry for entry in tensors)
    own = {site: read(folder) for site, folder in folders(made).items()}
    assert set(own) == {"north", "south"}
    assert not equal(own["north"], own["south"])
    shared, stays = read(made.folder), STAYS.get(name, "")
    for key, value in own["north"].items() if stays else ():
        if stays not in key:
            assert torch.equal(value, own["south"][key]), "what travels is the same at all sites"
            assert torch.equal(value, shared[key])
        else:
            assert not shared[key].any(), "the shared model has that part as it began"
    taken = take(sites, made, site="north")
    assert not torch.equal(logits(taken), logits(take(sites, made, site="south")))
    assert load_model(made).model is not None
    with pytest.raises(LuthierError, match="has no model of a site 'west'"):
        take(sites, made, site="west")
    with pytest.raises(LuthierError, match="from another model than `model`"):
        take(sites, made, site="north", base=made)


@pytest.mark.parametrize("name", list(STAYS))
def test_one_site_in_one_round_has_the_model_of_a_plain_training(name: str, sites: Sites) -> None:
    settings = {**PARTS[name], "sum": "mean" if name != "head" else "factors"}
    made = sites.federate(sites.step(["north"], rounds=1, **settings))
    tune = {"data": "data", "technique": LORA, **TRAINING, **settings.get("tune", {})}
    plain = sites.tune(Tune.model_validate(tune), "north")
    assert equal(read(folders(made)["north"]), read(plain.folder))


def test_a_sites_own_adapter_is_a_training_on_top_of_the_shared_model(sites: Sites) -> None:
    common: dict[str, Any] = {"rounds": 1, "sum": "ffa"}
    shared = sites.federate(sites.step(["north", "south"], **common))
    made = sites.federate(sites.step(["north", "south"], rounds=1, **PARTS["adapter"]))
    assert files(made)[ADAPTER] == files(shared)[ADAPTER], "rounds are what they are without it"
    step = Tune.model_validate(
        {"data": "data", "technique": {"kind": "lora", "r": 2, "lora_alpha": 16.0}, **TRAINING, "max_steps": 2,
         "epochs": 1000}
    )  # fmt: skip
    over = replace(sites, base=shared).tune(step, "north", derive_seed(3))
    own = take(sites, made, site="north")
    torch.testing.assert_close(logits(own), logits(over), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(logits(own), logits(shared), atol=1e-3)
    config = json.loads((own.folder / "adapter/adapter_config.json").read_text())
    assert config["r"] == 6, "both are one adapter over the untouched base"
    near = sites.federate(sites.step(["north"], **common, personal={**PARTS["adapter"]["personal"], "proximal": 1e3}))
    plain = sites.federate(sites.step(["north"], **common, personal=PARTS["adapter"]["personal"]))
    away, drawn = (
        float((logits(take(sites, one, site="north")) - logits(one)).abs().max()) for one in (plain, near)
    )  # fmt: skip
    assert drawn < away


@pytest.mark.parametrize("name", list(STAYS))
def test_sites_with_the_same_rows_have_the_model_of_a_federation_without_a_part(name: str, tmp_path: Path) -> None:
    rows = examples(16)
    sites = build_sites(tmp_path, {"north": rows, "south": rows})
    settings = {**PARTS[name], "sum": "mean" if name != "head" else "factors"}
    made = sites.federate(sites.step(["north", "south"], **settings))
    del settings["personal"]
    settings["sum"] = "factors" if name == "lora_b" else settings["sum"]
    whole = sites.federate(sites.step(["north", "south"], **settings))
    one, other = folders(made).values()
    assert equal(read(one), read(other))
    assert equal(read(one), read(whole.folder))


KILLS = [("lora_b", "state"), ("head", "state"), ("lora_b", "keep"), ("adapter", "keep"), ("head", "end"),
         ("adapter", "end")]  # fmt: skip
"""An adapter is trained at the end, and is no state between rounds."""


@pytest.mark.parametrize(("name", "place"), KILLS)
def test_a_kill_at_any_place_leaves_the_same_bytes(
    name: str, place: str, fresh: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = fresh.step(["north", "south"], rounds=3, **PARTS[name])
    right = files(fresh.federate(step, digest="a" * 32))
    count = 0

    def dying(before: Any, after: bool, at: int) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at and not after:
                raise KeyboardInterrupt
            found = before(*given, **named)
            if count == at:
                raise KeyboardInterrupt
            return found

        return call

    with monkeypatch.context() as patch:
        if place == "state":  # the own weights of round 2 are written, and no answer
            patch.setattr(SiteState, "write", dying(SiteState.write, True, 3))
        elif place == "keep":
            patch.setattr(SiteWorker, "_keep", dying(SiteWorker._keep, False, 6))
        else:
            patch.setattr(SiteWorker, "_measure", dying(SiteWorker._measure, True, 2))
        with pytest.raises(KeyboardInterrupt):
            fresh.federate(step, digest="b" * 32)
    made = files(fresh.federate(step, digest="b" * 32))
    assert {path for path, digest in made.items() if right.get(path) != digest} == {
        "personal/0/training.json", "personal/1/training.json"
    }, "these alone name the federation"  # fmt: skip
    assert made.keys() == right.keys()


def test_a_message_that_comes_again_has_the_same_answer_and_moves_nothing(sites: Sites) -> None:
    made, step = list[bytes](), sites.step(["north"], rounds=2, **PARTS["lora_b"])
    work = sites.work(step, digest="c" * 32)
    exchange = LocalChannel.exchange

    def asking_twice(self: LocalChannel, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        once, again = exchange(self, number, contents), exchange(self, number, contents)
        assert once == again
        made.extend(once.values())
        return again

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalChannel, "exchange", asking_twice)
        step.make(work)
    twice = load_file(work.folder / "personal/0" / ADAPTER)
    assert FederationMessage.decode(made[-1], Measured).header.personal
    assert equal(twice, read(folders(sites.federate(step, digest="d" * 32))["north"]))


@pytest.mark.parametrize("name", ["lora_b", "head of all weights", "adapter"])
def test_simulated_sites_keep_their_parts_apart(name: str, tmp_path: Path) -> None:
    from luthier.federated.partition import PartitionSettings, partition_rows

    rows = examples(24)
    whole = build_sites(tmp_path / "whole", {"all": rows})
    parts = partition_rows(PartitionSettings(number=3), whole.data["all"], 5)
    real = build_sites(tmp_path / "real", {site: [rows[at] for at in places] for site, places in parts.items()})
    made = whole.federate(whole.step(["all"], partition={"number": 3}, **PARTS[name]), seed=5)
    other = real.federate(real.step(list(parts), **PARTS[name]), seed=5)
    for site, folder in folders(made).items():
        assert equal(read(folder), read(folders(other)[site]))
    assert not equal(*[read(folder) for folder in list(folders(made).values())[:2]])


def test_the_models_of_simulated_sites_are_written_over_one_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.tune.run import TrainingRun

    opened, open_plain = list[int](), TrainingRun._open

    def count(self: Any, dtype: Any, about: Any) -> Any:
        opened.append(1)
        return open_plain(self, dtype, about)

    monkeypatch.setattr(TrainingRun, "_open", count)
    sites = build_sites(tmp_path, {"all": examples(24)})
    made = sites.federate(sites.step(["all"], partition={"number": 4}, **PARTS["lora_b"]))
    assert len(folders(made)) == 4
    assert len(opened) == 3, "to begin with, for all sites, rounds and models of their own, and for the shared one"


def test_a_site_that_was_never_drawn_has_no_part_of_its_own(tmp_path: Path) -> None:
    sites = build_sites(tmp_path, {"all": examples(24)})
    common: dict[str, Any] = {"partition": {"number": 4}, "sites_per_round": 1, "rounds": 1}
    assert len(folders(sites.federate(sites.step(["all"], **common, **PARTS["lora_b"])))) == 1
    assert len(folders(sites.federate(sites.step(["all"], **common, **PARTS["adapter"])))) == 4


def test_what_stays_is_not_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = build_sites(tmp_path, {name: examples(32)[at::4] for at, name in enumerate("abcd")})
    from luthier.federated.secure_aggregation.masks import encode_update

    sizes = list[int]()

    def hearing(weights: Mapping[str, torch.Tensor], *rest: Any) -> Any:
        assert not any("lora_B" in name for name in weights)
        sizes.append(sum(value.numel() for value in weights.values()))
        return encode_update(weights, *rest)

    monkeypatch.setattr("luthier.federated.sites.worker.encode_update", hearing)
    plain = sites.federate(sites.step(list(sites.data), **PARTS["lora_b"]))
    for more in ({}, {"least": 3}):
        masked = sites.federate(sites.step(list(sites.data), **PARTS["lora_b"], secure={"bound": 4096}, **more))
        assert len(folders(masked)) == 4
        for site, folder in folders(masked).items():
            for key, value in read(folders(plain)[site]).items():
                torch.testing.assert_close(read(folder)[key], value, atol=1e-4, rtol=1e-3)
    numbers = {key: value.numel() for key, value in read(plain.folder).items() if "lora_A" in key}
    assert set(sizes) == {sum(numbers.values())}


@pytest.mark.parametrize(
    "settings",
    [
        {"privacy": {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0}, "tune": {"on_loss_spike": "off"}},
        {"privacy": {"unit": "site", "epsilon": 50.0, "delta": 1e-2, "clip": 0.1}},
        {"robust": "median"},
        {"server": "yogi"},
        {"proximal": 0.1},
        {"control_variates": True},
    ],
)
def test_other_settings_work_beside_a_part(sites: Sites, settings: dict[str, Any]) -> None:
    made = sites.federate(sites.step(**PARTS["lora_b"], **settings))
    assert set(folders(made)) == {"north", "south", "west"}


@pytest.mark.parametrize("name", ["head", "adapter"])
def test_metrics_are_those_of_each_sites_own_model(name: str, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.measure import measure_site

    measured = dict[str, dict[str, torch.Tensor]]()
    digests = set[str]()

    def hearing(training: Any, model: Artifact, work: StepContext, *rest: Any) -> Any:
        measured[work.scratch.parent.name] = read(model.folder)
        digests.add(model.digest)
        return measure_site(training, model, work, *rest)

    monkeypatch.setattr("luthier.federated.sites.worker.measure_site", hearing)
    made = sites.federate(sites.step(["north", "south"], rounds=1, metrics=["accuracy"], **PARTS[name]))
    for site, folder in folders(made).items():
        assert equal(measured[site], read(folder))
    assert len(digests) == 2, "answers are kept by the digest of the model"
    found = made.read_json("federation.json")["metrics"]["accuracy"]
    assert set(found["sites"]) == {"north", "south"}


def test_own_heads_learn_names_of_classes_that_sites_use_otherwise(tmp_path: Path) -> None:
    """South calls every class by the name of another: no shared head can be right at both."""
    rows, names = examples(60), ["account", "billing", "delivery"]
    other = dict(zip(names, names[1:] + names[:1], strict=True))
    moved = [row.model_copy(update={"label": other[str(row.label)], "id": f"{row.id}-s", "messages": (
        *row.messages[:-1], row.messages[-1].model_copy(update={"content": other[str(row.label)]}))})
        for row in rows]  # fmt: skip
    sites = build_sites(tmp_path, {"north": rows, "south": moved})
    common: dict[str, Any] = {"rounds": 2, "local": {"epochs": 6}, "metrics": ["accuracy"], "sum": "mean",
                              "tune": {**FULL_HEADED, "learning_rate": 3e-3}}  # fmt: skip
    values = [
        sites.federate(sites.step(["north", "south"], **common, **more)).read_json("federation.json")["metrics"]
        for more in ({}, {"personal": "head"})
    ]
    shared, own = (found["accuracy"]["value"] for found in values)
    assert own >= shared + 0.2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"personal": "hed"}, "did you mean 'head'"),
    ({"personal": "head"}, "trains no head that could stay at a site"),
    ({"personal": "head", "sum": "mean", "tune": {"technique": "layers"}}, "trains no head that could stay"),
    ({"personal": "lora_b"}, "ffa trains B alone, so nothing would travel; take mean"),
    ({"personal": "lora_b", "sum": "stack"}, "stack needs B of each site; take mean"),
    ({"personal": "lora_b", "sum": "residual"}, "residual needs B of each site; take mean"),
    ({"personal": "lora_b", "sum": "mean", "tune": {"technique": "full"}}, "full has no factor B"),
    ({"personal": "adapter", "sum": "mean", "tune": {"technique": "full"}}, "full is none, take lora"),
    ({"personal": "adapter", "tune": {"technique": "qlora"}}, "the shared adapter cannot be added"),
    ({"personal": {"kind": "adapter", "rank": 3}}, "rank"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_stay_is_refused(sites: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sites.step(**settings)


def test_a_head_that_is_one_with_the_embeddings_is_refused(sites: Sites) -> None:
    step = sites.step(sum="mean", personal="head", tune={"technique": "full"})
    context = PlanContext(inputs={"model": sites.base}, upstream={}, recipe_dir=sites.base.folder)
    with pytest.raises(LuthierError, match="one with its embeddings"):
        step.estimate_cost(context)


def test_a_training_of_the_head_alone_has_nothing_to_send(sites: Sites) -> None:
    tune = {"technique": {**LORA, "target_modules": ["lm_head"]}}
    step = sites.step(sum="ffa", personal="head", tune=tune)
    step.estimate_cost(PlanContext(inputs={"model": sites.base}, upstream={}, recipe_dir=sites.base.folder))
    with pytest.raises(LuthierError, match="keeps all that lora trains at the sites"):
        sites.federate(step)


def test_the_plan_says_what_stays_and_what_that_saves(sites: Sites) -> None:
    context = PlanContext(inputs={"model": sites.base}, upstream={}, recipe_dir=sites.base.folder)

    def plan(**settings: Any) -> str:
        return sites.step(**settings).estimate_cost(context).statement

    said = plan(**PARTS["lora_b"])
    assert "B of each adapter stays at each site and never travels" in said
    assert "less than if all of it traveled" in said
    assert "the head stays at each site and never travels, 0." in plan(**PARTS["head"])
    assert "an adapter of rank 2 of its own for 2 steps" in plan(**PARTS["adapter"])
    site = {"unit": "site", "epsilon": 50.0, "delta": 1e-2, "clip": 0.1}
    for part in ("lora_b", "adapter"):
        begins = plan(**PARTS[part], privacy=site).partition(";")[0]
        assert begins.startswith("ε = 50 at δ = 0.01 for each site, for what travels alone")
        assert begins.endswith("each site's own model has a part without noise, and no promise")
    rows = plan(**PARTS["adapter"], privacy={"epsilon": 4}, tune={"on_loss_spike": "off"})
    assert rows.partition(";")[0] == "ε = 4 at δ = 1e-05 for each row", "noise is enough for both trainings"


def test_sites_of_a_recipe_evaluate_and_gate_their_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    path = small_recipe(tmp_path, RECIPE_OF_SITES)
    made = Recipe.load(path).run()
    both, own = made["both"].artifact, made["north_own"].artifact
    assert equal(read(own.folder), read(folders(both)["north"]))
    assert made["report"].artifact.read_json("metrics.json")
    path.write_text(path.read_text().replace("site: north", "site: nord"))
    with pytest.raises(LuthierError, match="no model of a site 'nord'"):
        Recipe.load(path).plan()


def test_a_step_of_a_site_is_planned(sites: Sites) -> None:
    def plan(upstream: Any, **settings: Any) -> None:
        step = SelectSiteModel.model_validate({"kind": "site_model", "tuned": "both", "site": "north", **settings})
        step.estimate_cost(PlanContext(inputs={}, upstream={"tuned": upstream}, recipe_dir=Path()))

    plan(sites.step(**PARTS["lora_b"]))
    with pytest.raises(LuthierError, match="leaves no models of sites"):
        plan(sites.step())
    with pytest.raises(LuthierError, match="no model of a site 'nort'") as caught:
        plan(sites.step(**PARTS["lora_b"]), site="nort")
    assert "north" in str(caught.value.hint)
    with pytest.raises(ValidationError, match="one of them"):
        SelectSiteModel.model_validate({"kind": "site_model", "tuned": "both", "site": "north", "folder": "x"})
    with pytest.raises(ValidationError, match="give both, or neither"):
        SelectSiteModel.model_validate({"kind": "site_model", "folder": "x", "site": "north"})
    assert Federate.model_fields["personal"].default is None


@pytest.mark.parametrize("name", ["lora_b", "adapter"])
def test_sites_elsewhere_have_the_same_models_and_the_coordinator_none(
    name: str, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a folder, as between machines; both sites answer whenever the coordinator looks."""
    keys = {one: FederationIdentity.create(one) for one in ("coordinator", "north", "south")}
    for one, identity in keys.items():
        identity.write(tmp_path / one)
    settings = {"coordinator": "card.json", "recipe": "recipe.yaml", "approval": "never", "least_rows": 4}
    servers = [
        SiteServer(
            tmp_path / site, keys[site], keys["coordinator"].card, FolderMailbox(tmp_path / "mail", site),
            SiteInputs(data=sites.data[site], model=sites.base),
            SitePolicy.model_validate({"name": site, **settings}),
        )
        for site in ("north", "south")
    ]  # fmt: skip
    look = FolderPost.get

    def answering(self: FolderPost, site: str, number: int) -> bytes | None:
        for server in servers:
            server.answer_waiting()
        return look(self, site, number)

    monkeypatch.setattr(FolderPost, "get", answering)
    transport = {
        "kind": "folder", "path": str(tmp_path / "mail"), "keys": str(tmp_path / "coordinator"), "wait_s": 120,
        "member_cards": {site: str(tmp_path / site / "card.json") for site in ("north", "south")},
    }  # fmt: skip
    made = sites.federate(sites.step([], **PARTS[name], transport=transport), digest="ab" * 16)
    here = sites.federate(sites.step(["north", "south"], **PARTS[name]))
    assert made.read_json("federation.json")["personal"]["sites"] == {"north": None, "south": None}
    assert not (made.folder / "personal").exists()
    for site, folder in folders(here).items():
        assert equal(read(tmp_path / site / "federations" / ("ab" * 16) / "personal"), read(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PARTS))
def test_a_process_for_each_site_makes_the_same_models(name: str, sites: Sites) -> None:
    transport = {"kind": "processes", "wait_s": 300}
    made = sites.federate(sites.step(["north", "south"], **PARTS[name], transport=transport), digest="cd" * 16)
    here = sites.federate(sites.step(["north", "south"], **PARTS[name]))
    for site, folder in folders(here).items():
        assert equal(read(folders(made)[site]), read(folder))


def test_an_order_whose_part_is_unknown_or_cannot_stay_is_refused(sites: Sites) -> None:
    step = sites.step(["north"], rounds=1, **PARTS["lora_b"])
    orders = list[bytes]()

    def keep_order(self: LocalChannel, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        orders.extend(contents.values())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalChannel, "exchange", keep_order)
        with pytest.raises(KeyboardInterrupt):
            step.make(sites.work(step, digest="e1" * 16))
    order = FederationMessage.decode(orders[0], Order).header
    policy = SitePolicy.model_validate(
        {"name": "north", "coordinator": "c", "recipe": "r", "least_rows": 4, "sums": ["mean", "ffa"]}
    )
    policy.check_order(order, 24)
    with pytest.raises(LuthierError, match="is no part of a model that is known here"):
        policy.check_order(order.model_copy(update={"personal": {"kind": "tail"}}), 24)
    with pytest.raises(LuthierError, match="nothing would travel"):
        policy.check_order(order.model_copy(update={"sum": {"kind": "ffa"}}), 24)


def test_a_coordinator_that_sends_a_sites_own_part_is_refused(sites: Sites) -> None:
    step = sites.step(["north"], rounds=1, **PARTS["lora_b"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Federation, "_list_shared", lambda self, given: given)
        with pytest.raises(LuthierError, match=r"the coordinator sends other weights than were asked for: .*lora_B"):
            step.make(sites.work(step, digest="e2" * 16))
