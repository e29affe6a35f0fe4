"""A site's own word on questions: what is refused with the line, that each is answered once, and what never leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federations import Sites, build_sites
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.events import RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.analytics.names import find_name_obstacle
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox, HttpMailbox, SiteMailbox
from luthier.federated.messaging.messages import CountAnswer, FederationMessage, RoundUpdate, SiteQuestion
from luthier.federated.queries.schema import SchemaQuery
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import HttpAddress, SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.steps.validate_sites import ValidateSites
from tuning import examples, finish

NAMES = ("north", "south", "west")


def policy(**settings: Any) -> SitePolicy:
    given = {
        "name": "north", "coordinator": "card.json", "recipe": "recipe.yaml", "approval": "never", "least_rows": 4,
        "least_class_rows": 3, "queries": ["schema", "validate"], "class_names": True,
    }  # fmt: skip
    return SitePolicy.model_validate({**given, **settings})


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    every = [row.model_copy(update={"meta": {"channel": "mail"}}) for row in examples(48)]
    parts = {"north": every[:24], "south": every[24:40], "west": every[40:]}
    return build_sites(tmp_path_factory.mktemp("tickets"), {**parts, "one more": every[:25], "many more": every[:40]})


@dataclass
class Served:
    """Sites with keys and policies of their own, and a coordinator that asks them."""

    tickets: Sites
    root: Path
    keys: dict[str, FederationIdentity]
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, mailboxes: dict[str, SiteMailbox], data: dict[str, str] | None = None, **settings: Any) -> None:
        """Serve at each site in a thread, until the test ends."""
        for name, mailbox in mailboxes.items():
            peers = tuple(self.keys[other].card for other in NAMES if other != name)
            rows = self.tickets.data[(data or {}).get(name, name)]
            server = SiteServer(
                self.root / name, self.keys[name], self.keys["coordinator"].card, mailbox,
                SiteInputs(data=rows, model=None, peers=peers), policy(**settings),
            )  # fmt: skip
            thread = threading.Thread(target=server.run, args=(self.stop.is_set,))
            thread.start()
            self.threads.append(thread)

    def rest(self) -> None:
        """Stop all sites."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.stop.clear()
        self.threads.clear()

    def ask(self, digest: str, transport: dict[str, Any] | None = None, **settings: Any) -> Artifact:
        """Make the step as a coordinator does."""
        way = transport or {"kind": "folder", "path": str(self.root / "mail")}
        cards = {name: str(self.root / name / "card.json") for name in NAMES}
        about = {"keys": str(self.root / "coordinator"), "member_cards": cards, "wait_s": 60}
        step = ValidateSites.model_validate(
            {"kind": "validate_sites", "least_rows": 3, "transport": {**way, **about}, **settings}
        )
        folder, scratch = self.tickets.store.begin(digest)
        work = StepContext(
            name="check", inputs={}, folder=folder, scratch=scratch, recipe_dir=folder, seed=3,
            events=RunEventEmitter(self.tickets.heard.append).of("check"),
        )  # fmt: skip
        step.make(work)
        return finish(self.tickets.store, digest, "validate_sites", "findings", {})

    def mail(self) -> dict[str, SiteMailbox]:
        return {name: FolderMailbox(self.root / "mail", name) for name in NAMES}


@pytest.fixture
def served(tickets: Sites, tmp_path: Path) -> Iterator[Served]:
    keys = {name: FederationIdentity.create(name) for name in ("coordinator", *NAMES)}
    for name, identity in keys.items():
        identity.write(tmp_path / name)
    found = Served(tickets, tmp_path, keys)
    yield found
    found.rest()


def schema_of(made: Artifact) -> Any:
    return made.read_json("schema.json")


def test_sites_elsewhere_answer_through_a_folder(served: Served) -> None:
    served.serve(served.mail())
    made = schema_of(served.ask("1a" * 16, checks=["few_rows"]))
    assert made["counts"]["rows"]["rows"] == 48 + 24
    assert made["fields"] == ["channel"]
    log = SiteLedger(served.root / "north").read()
    assert [(entry.way, entry.kind) for entry in log] == [("in", "question"), ("out", "counted")] * 3 + [
        ("in", "final"), ("out", "measured")
    ]  # fmt: skip
    assert [entry.why for entry in log if entry.kind == "question"] == [
        "schema: names", "schema: counts", "validate: counts"
    ]  # fmt: skip
    assert log[1].why.endswith("names of classes and columns sent")
    text = (served.root / "north" / "log.jsonl").read_text()
    assert "invoice" not in text
    assert "channel" not in text


def test_and_over_http_under_masks(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.transports import http

    opened = http.HttpPost.__init__

    def opening(self: http.HttpPost, *arguments: Any) -> None:
        opened(self, *arguments)
        address = HttpAddress(url=self.url)
        boxes: dict[str, SiteMailbox] = {name: HttpMailbox(address, name, policy()) for name in NAMES}
        served.serve(boxes, pooled_counts=True)

    monkeypatch.setattr(http.HttpPost, "__init__", opening)
    made = served.ask("2a" * 16, {"kind": "http", "port": 0}, secure=True)
    assert schema_of(made)["counts"]["rows"]["rows"] == 48 + 24
    assert schema_of(made)["sites"] == {}
    assert schema_of(made)["classes"]


@pytest.mark.slow
def test_and_by_a_process_for_each_site(tickets: Sites) -> None:
    step = ValidateSites.model_validate(
        {"kind": "validate_sites", "sites": NAMES, "secure": True, "transport": {"kind": "processes", "wait_s": 300}}
    )
    folder, scratch = tickets.store.begin("3a" * 16)
    inputs = {f"sites.{at}": tickets.data[name] for at, name in enumerate(NAMES)}
    step.make(StepContext(name="check", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=folder, seed=3))
    assert schema_of(finish(tickets.store, "3a" * 16, "validate_sites", "findings", {}))["counts"]["rows"]["rows"] == 72


@pytest.mark.parametrize(
    ("settings", "asked", "message"),
    [
        ({"queries": []}, {}, "questions of the kind schema are not answered"),
        ({"queries": ["schema"]}, {}, "questions of the kind validate are not answered"),
        ({"require_masks": True}, {}, "the question has no masks"),
        ({"least_rows": 1000}, {}, "too few rows here to count"),
        ({"epsilon": 1.0}, {}, "no promise of differential privacy"),
        ({"epsilon": 1.0}, {"privacy": {"epsilon": 4}}, "and the budget is 1"),
        ({}, {"privacy": {"epsilon": 4}}, "noise takes the place of `least_class_rows` within a budget alone"),
    ],
)
def test_a_question_that_breaks_the_policy_is_refused_with_the_line(
    served: Served, settings: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    served.serve(served.mail(), **settings)
    with pytest.raises(LuthierError, match="refuses") as error:
        served.ask(digest_of([settings, asked]), **asked)
    assert message in str(error.value)
    assert "policy.yaml" in str(error.value)


def test_of_the_same_rows_a_question_has_one_answer(served: Served) -> None:
    served.serve(served.mail(), epsilon=5.0)
    about = {"privacy": {"epsilon": 2}, "checks": ["few_rows"]}
    first = served.ask("5a" * 16, **about)
    spent = SiteLedger(served.root / "north").list_spent(lambda entry: False)
    assert schema_of(served.ask("6a" * 16, **about)) == schema_of(first), "the same numbers, noise included"
    assert SiteLedger(served.root / "north").list_spent(lambda entry: False) == spent, "and they cost once"
    with pytest.raises(LuthierError, match="another question of the kind schema was answered of the same rows"):
        served.ask("7a" * 16, privacy={"epsilon": 2.1}, checks=["few_rows"])


@pytest.mark.parametrize(("rows", "told"), [("one more", False), ("many more", True)])
def test_rows_that_differ_by_few_are_not_counted_again(served: Served, rows: str, told: bool) -> None:
    served.serve(served.mail())
    before = schema_of(served.ask("8a" * 16, checks=[]))
    served.rest()
    served.serve(served.mail(), {"north": rows})
    if told:
        assert schema_of(served.ask("9a" * 16, checks=[]))["counts"]["rows"]["rows"] > before["counts"]["rows"]["rows"]
        return
    with pytest.raises(LuthierError, match="fewer than 3 rows differ from those of an earlier answer"):
        served.ask("9a" * 16, checks=[])


def test_a_question_waits_for_a_person(served: Served) -> None:
    said = list[str]()
    server = SiteServer(
        served.root / "north", served.keys["north"], served.keys["coordinator"].card, served.mail()["north"],
        SiteInputs(data=served.tickets.data["north"], model=None), policy(approval="always"), said.append,
    )  # fmt: skip
    content = FederationMessage(build_question()).encode()
    envelope = served.keys["coordinator"].seal(content, served.keys["north"].card, "ab" * 16, 0)
    folder = served.root / "mail" / ("ab" * 16)
    folder.mkdir(parents=True)
    (folder / "0000000-to-north").write_bytes(envelope)
    assert server.answer_waiting() == 0
    assert "a question waits for approval" in said[0]
    from luthier.federated.sites.server import approve_order

    approve_order(served.root / "north", "ab" * 16)
    assert server.answer_waiting() == 1


def build_question(**changes: Any) -> SiteQuestion:
    from luthier.federated.analytics.worker import compute_query_code

    given = {
        "federation": "ab" * 16, "query": {"kind": "schema"}, "stage": "names", "seed": 3, "least_rows": 1,
        "code": compute_query_code(SchemaQuery()),
    }  # fmt: skip
    return SiteQuestion.model_validate({**given, **changes})


def test_what_a_coordinator_sends_is_checked(served: Served) -> None:
    """Other code, a check that names a file, noise without a promise, a foreign group: each is one clear error."""
    asked: Sequence[tuple[dict[str, Any], str]] = [
        ({"code": "0" * 64}, "the code that counts here"),
        ({"query": {"kind": "validate", "checks": ["enough"]}}, "cannot be told by counts"),
        ({"noise": 3.0}, "names its noise"),
        ({"group": ["f" * 64] * 3}, "not the one that this site masks towards"),
        ({"classes": ["refund"] * 2, "stage": "counts"}, "names a class or a column twice"),
        ({"noise": 1e-6, "privacy": {"epsilon": 50}}, "noise of 1e-06 is none"),
        ({"noise": 1e300, "privacy": {"epsilon": 50}}, "noise of 1e+300 leaves nothing of a count"),
        ({"heavy": [list(range(4096))] * 3, "stage": "names"}, "more than 400 buckets"),
        ({"query": {"kind": "no such"}}, "none of a query here"),
    ]
    for at, (changes, message) in enumerate(asked):
        served.root.joinpath("north", "log.jsonl").unlink(missing_ok=True)
        found = throw(served, FederationMessage(build_question(**changes)).encode(), f"{at}b" * 16)
        assert message in found, changes


def throw(served: Served, content: bytes, federation: str) -> str:
    """What a site says to a question: the words of its refusal, in its answer or in its log."""
    from luthier.federated.messaging.messages import Rejection

    header = FederationMessage.decode(content, SiteQuestion).header.model_copy(update={"federation": federation})
    box = FolderMailbox(served.root / "box", "north")
    folder = served.root / "box" / federation
    folder.mkdir(parents=True)
    sealed = served.keys["coordinator"].seal(
        FederationMessage(header).encode(), served.keys["north"].card, federation, 0
    )
    (folder / "0000000-to-north").write_bytes(sealed)
    server = SiteServer(
        served.root / "north", served.keys["north"], served.keys["coordinator"].card, box,
        SiteInputs(data=served.tickets.data["north"], model=None), policy(),
    )  # fmt: skip
    server.answer_waiting()
    answer = folder / "0000000-from-north"
    if not answer.is_file():
        return SiteLedger(served.root / "north").read()[-1].why
    opened = served.keys["coordinator"].open(answer.read_bytes(), served.keys["north"].card, federation, 0)
    return str(FederationMessage.decode(opened, Rejection, CountAnswer, RoundUpdate).header)


def test_names_that_hold_texts_are_not_told() -> None:
    assert find_name_obstacle("class:refund") == ""
    for name in ("class:", "class:a\nb", "class:" + "long " * 20, "field:anna.meier@example.com", "other:x"):
        assert find_name_obstacle(name), name


def test_rows_with_personal_data_in_a_class_are_not_named(tmp_path: Path) -> None:
    def named(row: Example, at: int) -> Example:
        return row.model_copy(update={"meta": {"anna.meier@example.com": "x", "channel": "mail"}})

    from luthier.federated.analytics.names import list_reportable_names
    from luthier.federated.analytics.query import SiteRows

    sites = build_sites(tmp_path, {"north": [named(row, at) for at, row in enumerate(examples(24))]})
    counts = SchemaQuery().count_names(SiteRows(sites.data["north"]))
    assert "field:anna.meier@example.com" in counts
    assert "field:channel" in list_reportable_names(counts)
    assert "field:anna.meier@example.com" not in list_reportable_names(counts)


def test_sites_elsewhere_count_their_requests_once(served: Served, tmp_path: Path) -> None:
    """Through a folder and under masks: the sums of a window, and no answer for another that shares seconds with it."""
    from luthier.core.context import RunContext
    from luthier.core.expressions import Window
    from luthier.federated.analytics.watch import SiteAlertEvaluator, SiteMonitoring
    from luthier.federated.steps.monitor_sites import MonitorSites
    from watching import BEGIN, desk_traffic, plan_of, write_log

    begin, plan = int(BEGIN.timestamp()), plan_of(tmp_path, ["error_rate", "throughput", "latency"])
    for name in NAMES:
        write_log(served.root / f"{name}.jsonl", desk_traffic(40))
        peers = tuple(served.keys[other].card for other in NAMES if other != name)
        server = SiteServer(
            served.root / name, served.keys[name], served.keys["coordinator"].card, served.mail()[name],
            SiteInputs(
                data=served.tickets.data[name], model=None, peers=peers, traffic=served.root / f"{name}.jsonl"
            ),
            policy(queries=["monitor"], require_masks=True),
        )  # fmt: skip
        thread = threading.Thread(target=server.run, args=(served.stop.is_set,))
        thread.start()
        served.threads.append(thread)
    cards = {name: str(served.root / name / "card.json") for name in NAMES}
    transport = {
        "kind": "folder", "path": str(served.root / "mail"), "keys": str(served.root / "coordinator"),
        "member_cards": cards, "wait_s": 60,
    }  # fmt: skip
    said = list[str]()
    for window, until in ((600, begin + 600), (300, begin + 600)):
        step = MonitorSites.model_validate(
            {"kind": "monitor_sites", "monitor": "monitor", "window": window, "secure": True, "least_rows": 3,
             "transport": transport}
        )  # fmt: skip
        kept = tmp_path / f"kept-{window}"
        kept.mkdir()
        monitoring = SiteMonitoring(step=step, digest=f"{window}" * 8, recipe_dir=tmp_path, kept=kept, say=said.append)
        watching = SiteAlertEvaluator(plan, RunContext(recipe_dir=tmp_path), monitoring)
        watching.ask(until)
        value = watching.reading("throughput", Window(seconds=600), until)
        if window == 600:
            assert value is not None
            assert value.events == 3 * 20, "requests of all three sites in ten minutes"
            assert watching.reading("error_rate", Window(seconds=600), until) is not None
        else:
            assert value is None
    assert "shares seconds with another one that was answered" in said[-1]
