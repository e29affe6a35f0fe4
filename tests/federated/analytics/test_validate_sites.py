"""The rows of all sites checked by counts: pooled values are those of `validate` on the pooled rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from federations import Sites, build_sites, replace
from luthier.artifacts.findings import Findings, read_findings
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.events import RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.data.check import Check
from luthier.data.steps.validate import Validate
from luthier.federated.analytics import worker
from luthier.federated.steps.validate_sites import ValidateSites
from tuning import examples, finish

NAMES = ("north", "south", "west")
PARTS = {"north": slice(0, 24), "south": slice(24, 40), "west": slice(40, 48)}
POOLED = {"few_rows", "imbalance", "personal_data", "profile"}


def rows() -> list[Example]:
    """Tickets with a column that some lack, and one that one site lacks."""
    found = []
    for at, row in enumerate(examples(48)):
        meta = {"channel": "mail" if at % 3 else "", **({"team": "a"} if at < 40 else {})}
        first, *others = row.messages
        said = first.model_copy(update={"content": f"{first.content} anna.meier@example.com"}) if at % 5 == 0 else first
        found.append(row.model_copy(update={"meta": meta, "messages": (said, *others)}))
    return found


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    every = rows()
    parts = {name: every[part] for name, part in PARTS.items()}
    return build_sites(tmp_path_factory.mktemp("tickets"), {**parts, "all": every, "four": every[:6]})


def ask(place: Sites, digest: str | None = None, **settings: Any) -> Artifact:
    step = ValidateSites.model_validate({"kind": "validate_sites", "sites": NAMES, "least_rows": 1, **settings})
    name = digest or digest_of([step.settings(), "asked"])
    folder, scratch = place.store.begin(name)
    work = StepContext(
        name="check",
        inputs={f"sites.{at}": place.data[site] for at, site in enumerate(step.sites)},
        folder=folder,
        scratch=scratch,
        recipe_dir=folder,
        seed=3,
        events=RunEventEmitter(place.heard.append).of("check"),
    )
    step.make(work)
    return finish(place.store, name, "validate_sites", "findings", {})


def validate(sites: Sites, name: str, checks: list[str]) -> Findings:
    """What `validate` says of a data set."""
    step = Validate.model_validate({"kind": "validate", "data": "data", "checks": checks})
    digest = digest_of([name, checks])
    folder, scratch = sites.store.begin(digest)
    work = StepContext(
        name="check", inputs={"data": sites.data[name]}, folder=folder, scratch=scratch, recipe_dir=folder, seed=3
    )
    step.make(work)
    return read_findings(finish(sites.store, digest, "validate", "findings", {}))


def values(findings: Findings) -> Mapping[str, Any]:
    skipped = {"vocabulary", "schema.rows", "schema.classes", "findings.warning"}
    return {name: number for name, number in findings.numbers.items() if name not in skipped}


@pytest.mark.parametrize("settings", [{}, {"secure": True}], ids=["plain", "masked"])
def test_pooled_values_are_those_of_the_pooled_rows(tickets: Sites, settings: dict[str, Any]) -> None:
    checks = sorted(POOLED)
    pooled = validate_rows(tickets, checks)
    asked = read_findings(ask(tickets, checks=checks, **settings))
    assert values(asked) == values(pooled)
    assert asked.rows == pooled.rows
    for name in ("few_rows", "imbalance", "personal_data", "profile.columns", "profile.languages"):
        [own] = [finding for finding in asked.findings if finding.name == name]
        [other] = [finding for finding in pooled.findings if finding.name == name]
        tables = tuple(table for table in own.tables if table.title != "Each site")
        assert (own.severity, own.sentence, tables) == (other.severity, other.sentence, other.tables)
    [lengths] = [finding.tables[0] for finding in asked.findings if finding.name == "profile"]
    [whole] = [finding.tables[0] for finding in pooled.findings if finding.name == "profile"]
    assert [line[:6] for line in lengths.rows] == [line[:6] for line in whole.rows], "short lengths are exact"


def validate_rows(sites: Sites, checks: list[str]) -> Findings:
    """Of the pooled rows: all training rows, and the test rows of each site."""
    from tuning import _data

    every = rows()
    held = [row for part in PARTS.values() for row in every[part][:8]]
    name = "pooled"
    if name not in sites.data:
        digest = digest_of(["prepare", name])
        folder, _ = sites.store.begin(digest)
        _data(folder, {"train": every, "validation": [], "test": held})
        sites.data[name] = finish(sites.store, digest, "prepare", "dataset", {})
    return validate(sites, name, checks)


def test_every_check_is_told_or_said_to_be_left_out(tickets: Sites) -> None:
    from luthier.core.component import components_by_kind

    found = read_findings(ask(tickets))
    told = {finding.name.partition(".")[0] for finding in found.findings}
    for kind, check in components_by_kind(Check).items():
        assert kind in told or kind in found.skipped or not check.quick, kind
    assert "conflicts" in told
    assert "trains on all rows" in found.skipped["enough"]


def test_checks_within_sites_add_up(tickets: Sites) -> None:
    own = [validate(tickets, name, ["length_outliers"]).numbers["length_outliers"] for name in NAMES]
    found = read_findings(ask(tickets, checks=["length_outliers"])).numbers["length_outliers"]
    assert found.rows == sum(number.rows for number in own)
    assert round(found.value * found.rows) == sum(round(number.value * number.rows) for number in own)


def test_names_are_agreed_alike_with_and_without_masks(tickets: Sites) -> None:
    plain = ask(tickets, checks=[]).read_json("schema.json")
    masked = ask(tickets, checks=[], secure=True).read_json("schema.json")
    assert plain["fields"] == masked["fields"] == ["channel", "team"]
    assert plain["classes"] == masked["classes"] == sorted({row.label for row in rows() if row.label})
    assert plain["counts"] == masked["counts"]
    assert masked["sites"] == {}
    assert set(plain["sites"]) == set(NAMES)


def test_a_site_may_be_missing_in_a_masked_sum(tickets: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.transport import LocalChannel

    names, exchange = (*NAMES, "four"), LocalChannel.exchange
    whole = ask(tickets, sites=names, checks=[], secure=True, least=3).read_json("schema.json")
    assert whole["counts"]["rows"]["rows"] == 48 + 24 + 6 + 6
    west = len(rows()[PARTS["west"]]) + 8

    def losing(self: Any, number: int, contents: Any) -> Any:
        lost = number > 11
        return exchange(
            self, number, {name: content for name, content in contents.items() if not lost or name != "west"}
        )

    monkeypatch.setattr(LocalChannel, "exchange", losing)
    made = ask(tickets, sites=names, checks=[], secure=True, least=3, digest="5c" * 16).read_json("schema.json")
    assert made["classes"] == whole["classes"]
    assert made["counts"]["rows"]["rows"] == whole["counts"]["rows"]["rows"] - west


def test_sites_that_differ_are_named(tickets: Sites) -> None:
    [schema] = [finding for finding in read_findings(ask(tickets)).findings if finding.name == "schema"]
    assert schema.severity == "warning"
    assert "column 'team' at west" in schema.sentence


def test_each_site_has_its_own_numbers_unless_they_are_masked(tickets: Sites) -> None:
    def sites_of(found: Findings) -> set[str]:
        tables = [table for finding in found.findings for table in finding.tables if table.title == "Each site"]
        return {str(line[0]) for table in tables for line in table.rows}

    assert sites_of(read_findings(ask(tickets))) == set(NAMES)
    assert sites_of(read_findings(ask(tickets, secure=True))) == set()


@pytest.mark.parametrize("secure", [False, True])
def test_no_count_of_few_rows_is_told(tickets: Sites, secure: bool) -> None:
    record = ask(tickets, least_rows=7, secure=secure).read_json("schema.json")
    for counts in (record["counts"], *record["sites"].values()):
        for cells in counts.values():
            assert all(count == 0 or count >= 7 for count in cells.values())
    rare = {row.label for row in rows() if row.label and [other.label for other in rows()].count(row.label) < 4}
    assert not rare & set(record["classes"])


def test_noise_protects_rows(tickets: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.os, "urandom", lambda count: b"7" * count)
    made = ask(tickets, privacy={"epsilon": 50, "delta": 1e-3})
    record, found = made.read_json("schema.json"), read_findings(made)
    assert record["noise"] > 0.1
    assert record["fields"] == []
    assert record["counts"]["rows"]["rows"] != 72 or record["counts"]["turns"]["2"] != 72
    assert "one row may decide" in found.skipped["conflicts"]
    [schema] = [finding for finding in found.findings if finding.name == "schema"]
    assert "= 50 at" in schema.sentence


def test_the_same_question_has_the_same_bytes(tickets: Sites) -> None:
    one = json.dumps(ask(tickets, digest="1c" * 16).read_json("findings.json"))
    assert json.dumps(ask(tickets, digest="2c" * 16).read_json("findings.json")) == one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": []}, "name the steps whose data sets are the `sites`"),
        ({"sites": ["north", "south"], "secure": True}, "masks need 3"),
        ({"secure": True, "least": 2}, "more than two thirds"),
        ({"checks": ["enough"]}, "enough cannot be told by counts"),
        ({"least": 9}, "there are 3 sites"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ValidateSites.model_validate({"kind": "validate_sites", "sites": NAMES, **settings})


def test_a_killed_coordinator_goes_on(tickets: Sites, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from luthier.federated.transport import LocalChannel

    whole = ask(tickets, secure=True, digest="3c" * 16).read_json("findings.json")
    exchange, asked = LocalChannel.exchange, list[int]()

    def dying(self: Any, number: int, contents: Any) -> Any:
        asked.append(number)
        found = exchange(self, number, contents)
        if len(asked) in (2, 4):
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(LocalChannel, "exchange", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask(tickets, secure=True, digest="4c" * 16)
    assert ask(tickets, secure=True, digest="4c" * 16).read_json("findings.json") == whole


def test_a_federation_trains_on_classes_that_were_agreed(tickets: Sites) -> None:
    """Under masks, and no site names a class of its own; the model is that of classes which sites name themselves."""
    from luthier.federated.coordinator import Federation
    from luthier.federated.messaging.messages import Enrolled, FederationMessage
    from luthier.federated.transport import LocalChannel

    agreed = ask(tickets, checks=[], secure=True)
    settings = {"tune": {"objective": {"kind": "classify", "head": "label"}}, "rounds": 1, "local": {"steps": 1}}
    told = list[Enrolled]()
    exchange = LocalChannel.exchange

    def hearing(self: Any, number: int, contents: Any) -> Any:
        found = exchange(self, number, contents)
        if number == 0:
            told.extend(FederationMessage.decode(reply, Enrolled).header for reply in found.values())
        return found

    step = tickets.step(NAMES, classes="check", **settings)
    work = tickets.work(step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalChannel, "exchange", hearing)
        made = replace(work, inputs={**work.inputs, "classes": agreed})
        Federation(step, made).run()
    assert [entry.classes for entry in told] == [{}] * 3
    plain = tickets.step(NAMES, **settings)
    other = tickets.federate(plain)
    name = "adapter/adapter_model.safetensors"
    assert (work.folder / name).read_bytes() == other.path(name).read_bytes()


def test_what_is_promised_holds_for_the_classes(tickets: Sites) -> None:
    from luthier.federated.coordinator import Federation

    settings = {"objective": "classify", "on_loss_spike": "off"}
    private = {"epsilon": 4, "clip": 1.0}
    step = tickets.step(NAMES, classes="check", tune=settings, privacy=private)
    work = tickets.work(step)
    work = replace(work, inputs={**work.inputs, "classes": ask(tickets, checks=[])})
    with pytest.raises(LuthierError, match="come from rows without noise"):
        Federation(step, work).run()
    with pytest.raises(ValidationError, match="has no classes"):
        tickets.step(NAMES, classes="check")
