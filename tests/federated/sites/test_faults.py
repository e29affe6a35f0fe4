"""Faults and attacks that the agreed messages do not show: what few rows, lost folders, other weights, sizes, names and
errors could give away, and files that others throw where messages are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from federations import Sites, build_sites
from luthier.core.errors import DataError, LuthierError
from luthier.federated import local_training
from luthier.federated.errors import MessageError
from luthier.federated.messaging import envelopes
from luthier.federated.messaging.envelopes import EnvelopeChannel, FolderPost
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox, get_answer_name, get_message_name
from luthier.federated.messaging.messages import (
    Enrolled,
    FederationMessage,
    Final,
    LocalWork,
    Measured,
    Order,
    Rejection,
    RoundStart,
    RoundUpdate,
    pack_weights,
    unpack_weights,
)
from luthier.federated.privacy import FederatedPrivacy
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import LocalChannel
from luthier.metrics.metric import Metric
from site_attacks import (
    FEDERATION,
    Attack,
    build_attack,
    make_keys,
    members,
    policy,
)
from tuning import chat, examples

NAMES = ["north", "south"]


def refuse(attack: Attack, order: Order, federation: str = FEDERATION) -> str:
    """What a site says to an order; empty where it takes part."""
    [reply] = attack.throw(FederationMessage(order).encode(), 0, federation=federation)
    header = FederationMessage.decode(reply, Rejection, Enrolled).header
    return header.message if isinstance(header, Rejection) else ""


@pytest.mark.parametrize(
    ("tune", "length", "taken"),
    [
        ({"batch_size": 1}, LocalWork(steps=1), False),
        ({"batch_size": 2}, LocalWork(steps=3), False),
        ({"batch_size": 2}, LocalWork(steps=4), True),
        ({}, LocalWork(epochs=0.2), False),
        ({"max_train_samples": 5}, LocalWork(epochs=9), False),
    ],
)
def test_a_round_over_few_rows_is_refused(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tune: Any, length: LocalWork, taken: bool
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, least_rows=8)
    settings = {**attack.order.tune, **tune}
    said = refuse(attack, attack.order.model_copy(update={"tune": settings, "local": length}))
    assert ("least_rows" in said) != taken
    assert not any(char.isdigit() for char in said), "how few, it does not say"


def test_a_round_is_not_computed_again_when_its_folder_is_gone(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, epsilon=9.0, delta=1e-3)
    privacy = FederatedPrivacy(epsilon=4.0, delta=1e-3)
    tune = {**attack.order.tune, "on_loss_spike": "off"}
    attack.order = attack.order.model_copy(update={"tune": tune, "privacy": privacy})
    order = FederationMessage(attack.order).encode()
    assert len(attack.throw(order, 0)) == len(attack.throw(attack.start, 1)) == 1
    kept = attack.server._folder / "federations" / FEDERATION
    work = attack.server._worker(_Named(FEDERATION))._work  # type: ignore[arg-type]  # its federation is all that counts
    shutil.rmtree(kept)
    kept.mkdir()
    bare = SiteWorker("north", work)
    for number, content in enumerate((order, attack.start)):
        bare.answer(number, content)
    assert attack.trained == [0, 0], "the attack succeeds without the log: other noise, which costs nothing"
    shutil.rmtree(kept)
    assert attack.throw(order, 0) == attack.throw(attack.start, 1) == []
    assert all("was answered before, and its answer is not kept" in why for why in attack.refusals())
    assert attack.trained == [0, 0]


class _Named:
    def __init__(self, federation: str) -> None:
        self.federation, self.number = federation, 0


METRICS: list[tuple[Any, dict[str, Any], str]] = [
    ("json_valid", {"kind": "json_valid"}, ""),
    ("json_valid", {"kind": "json_valid", "obeys": {"schema": {"pattern": "Jane Doe"}}}, "other settings than here"),
    ({"kind": "json_valid", "fenced": False}, {"kind": "json_valid", "fenced": False}, ""),
    ({"kind": "json_valid", "fenced": False}, {"kind": "json_valid"}, "other settings than here"),
    ("accuracy", {"kind": "json_valid"}, "sums of json_valid may not be sent"),
]


@pytest.mark.parametrize(("allowed", "asked", "why"), METRICS)
def test_a_metric_asks_for_no_text_that_the_policy_does_not_name(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: Any, asked: dict[str, Any], why: str
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, metrics=[allowed])
    if "obeys" in asked:
        with pytest.raises(ValueError, match=r"."):
            Metric.parse({**asked, "obeys": 3})
    replies = attack.throw(FederationMessage(attack.order.model_copy(update={"metrics": [asked]})).encode(), 0)
    said = [FederationMessage.decode(reply, Rejection, Enrolled).header for reply in replies]
    if why:
        assert not said or why in said[0].message
    else:
        assert isinstance(said[0], Enrolled)


def test_measuring_is_counted_so_that_nobody_asks_again_and_again(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, metrics=["accuracy"], total_rounds=2, least_class_rows=1)
    monkeypatch.setattr("luthier.federated.sites.worker.measure_site", lambda *given: (8, {"accuracy": [8.0, 1.0]}))
    said = list[Any]()
    for at in range(3):
        name = f"{at}d" * 16
        order = attack.order.model_copy(update={"federation": name, "metrics": [{"kind": "accuracy"}]})
        assert refuse(attack, order, name) == ""
        start = FederationMessage.decode(attack.start, RoundStart)
        chosen = {key: value + 1 for key, value in start.tensors.items()}
        [reply] = attack.throw(FederationMessage(Final(), chosen).encode(), 4, federation=name)
        said.append(FederationMessage.decode(reply, Rejection, Measured).header)
    assert [type(entry) for entry in said] == [Measured, Measured, Rejection]
    assert "2 rounds are done, at most 2" in said[2].message


def change_start(change: Callable[[dict[str, Any]], None], round_number: int = 1) -> Callable[..., Any]:
    """A coordinator that sends other weights than recipe and rounds make."""
    iterate = LocalChannel.iterate_answers

    def lying(self: Any, number: int, contents: Any) -> Iterator[tuple[str, bytes]]:
        if number == round_number:
            for name, content in contents.items():
                message = FederationMessage.decode(content, RoundStart)
                given = unpack_weights(message.tensors)
                moving = dict(given.moving)
                change(moving)
                contents = {**contents, name: FederationMessage(
                    message.header, pack_weights(given._replace(moving=moving))).encode()}  # fmt: skip
        yield from iterate(self, number, contents)

    return lying


def plant(part: str) -> Callable[[dict[str, Any]], None]:
    def change(moving: dict[str, Any]) -> None:
        name = next(name for name in moving if part in name)
        moving[name] = torch.eye(*moving[name].shape)

    return change


@pytest.mark.parametrize(("part", "number", "why"), [
    ("lora_A", 1, "lora_A.default.weight other than recipe and seed begin it"),
    ("lora_B", 1, "lora_B.default.weight other than recipe and seed begin it"),
    ("lora_A", 2, "lora_A.default.weight other than recipe and seed begin it"),
    ("lora_B", 2, "its update of round 2"),
])  # fmt: skip
def test_weights_that_the_recipe_does_not_make_are_refused(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, part: str, number: int, why: str
) -> None:
    monkeypatch.setattr(LocalChannel, "iterate_answers", change_start(plant(part), number))
    step = sites.step(["north"], rounds=2, sum="ffa", local={"steps": 1})
    with pytest.raises(MessageError, match=why):
        sites.federate(step, digest=f"{number}{'a' if 'A' in part else 'b'}" * 16)


BASE_CHANGES: dict[str, tuple[str, int, tuple[int, int], tuple[int, int], str]] = {
    "by a sum that adds nothing": ("ffa", 2, (64, 1), (1, 64), "which no round of this sum does"),
    "before any round": ("stack", 1, (64, 1), (1, 64), "which no round of this sum does"),
    "no product": ("stack", 2, (64, 1), (2, 64), "what is no product"),
    "another shape": ("stack", 2, (3, 1), (1, 5), "another shape"),
}


@pytest.mark.parametrize("name", BASE_CHANGES)
def test_changes_of_the_base_that_no_round_made_are_refused(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, at, up, down, why = BASE_CHANGES[name]
    iterate = LocalChannel.iterate_answers

    def adding(self: Any, number: int, contents: Any) -> Iterator[tuple[str, bytes]]:
        if number == at:
            message = FederationMessage.decode(contents["north"], RoundStart)
            module = next(key for key in message.tensors if "lora_A" in key).partition(".lora_A")[0].partition("/")[2]
            tensors = {**message.tensors, f"up/{module}": torch.ones(up), f"down/{module}": torch.ones(down)}
            contents = {"north": FederationMessage(message.header, tensors).encode()}
        yield from iterate(self, number, contents)

    monkeypatch.setattr(LocalChannel, "iterate_answers", adding)
    step = sites.step(["north"], rounds=2, sum=kind, local={"steps": 1})
    with pytest.raises(MessageError, match=why):
        sites.federate(step, digest=f"{sorted(BASE_CHANGES).index(name)}c" * 16)


ESCAPE = "\x1b[2J\x1b[1;1Hround 9 of 9: all is well\r\n"


def test_words_of_others_cannot_write_over_a_terminal(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: SiteWorker, number: int, content: bytes) -> bytes:
        return FederationMessage(Rejection(message=ESCAPE)).encode()

    monkeypatch.setattr(SiteWorker, "answer", refusing)
    with pytest.raises(LuthierError, match="site north refuses") as caught:
        sites.step(["north"], sum="ffa").make(sites.work(sites.step(["north"], sum="ffa"), digest="e0" * 16))
    assert caught.value.message.isprintable()
    content = FederationMessage(Enrolled(rows=3), {ESCAPE: torch.full((2,), torch.nan)}).encode()
    with pytest.raises(MessageError, match="not finite") as unread:
        FederationMessage.decode(content, Enrolled)
    assert unread.value.message.isprintable()


def test_sizes_tell_nothing_of_rows_and_losses() -> None:
    tensors = {"b": torch.ones(30)}
    updates = [
        FederationMessage(RoundUpdate(round=at, answers="0" * 64, rows=rows, steps=steps, loss=loss), tensors).encode()
        for at, (rows, steps, loss) in enumerate([(3, 1, 0.5), (123_456_789, 54_321, 0.12345678901234567)], start=1)
    ]
    assert len({len(update) for update in updates}) == 1
    answers = [Enrolled(rows=7), Enrolled(rows=70_000), Rejection(message="policy.yaml:5: no"), Measured(rows=9),
               Measured(rows=99_999, sums={"accuracy": [98765.0, 99999.0]})]  # fmt: skip
    assert len({len(FederationMessage(answer).encode()) for answer in answers}) == 1
    keys = FederationIdentity.create("north"), FederationIdentity.create("coordinator").card
    sealed = [keys[0].seal(update, keys[1], FEDERATION, 1) for update in updates]
    assert len({len(envelope) for envelope in sealed}) == 1


CANARY = "zyxwvut"


def test_no_word_of_a_row_leaves_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A class that few rows have, texts, columns and an error that quotes a row: none is in a message, a name, an
    error or a file outside the site."""
    rare = [chat(f"{CANARY} question {at}", f"{CANARY}-class", 900 + at) for at in range(3)]
    rows = [*examples(60), *(one.model_copy(update={"meta": {"customer": CANARY}}) for one in rare)]
    sites = build_sites(tmp_path / "own", {"north": rows[::2] + rare, "south": rows[1::2]})
    keys, mail, root = make_keys(tmp_path), tmp_path / "mail", tmp_path / "outside"
    outside = build_sites(root, {"unused": examples(4)})
    step = outside.step(
        [], rounds=1, sum="ffa", tune={"objective": "classify"}, metrics=["accuracy"],
        transport={"kind": "folder", "path": str(mail), "keys": str(tmp_path / "coordinator"),
                   "member_cards": members(tmp_path), "wait_s": 60},
    )  # fmt: skip
    settings = {"objectives": ["classify"], "metrics": ["accuracy"], "class_names": True, "least_class_rows": 6}
    servers = [
        SiteServer(
            tmp_path / name, keys[name], keys["coordinator"].card, FolderMailbox(mail, name),
            SiteInputs(data=sites.data[name], model=sites.base), policy(name=name, **settings),
        )
        for name in NAMES
    ]  # fmt: skip
    exchange, opened = EnvelopeChannel.exchange, list[bytes]()

    def serving(self: EnvelopeChannel, number: int, contents: Any) -> Any:
        found = exchange(self, number, contents)
        opened.extend(found.values())
        return found

    def failing(self: Any, *given: Any) -> Any:
        raise DataError(f"row 7 ({CANARY} question 1) cannot be learnt")

    monkeypatch.setattr(envelopes, "sleep", lambda seconds: [one.answer_waiting() for one in servers])
    monkeypatch.setattr(EnvelopeChannel, "exchange", serving)
    made = outside.federate(step, digest="ca" * 16)
    monkeypatch.setattr(local_training.FederatedTraining, "train_round", failing)
    with pytest.raises(LuthierError, match=r"training failed there \(DataError\)"):
        outside.federate(step, digest="cb" * 16)
    classes = FederationMessage.decode(opened[0], Enrolled).header.classes
    assert len(classes) > 1
    assert set(classes) <= {"account", "billing", "delivery"}
    assert made.read_json("federation.json")["metrics"]["accuracy"]["rows"] == 16
    said = " ".join(event.text for event in outside.heard)
    assert not any(CANARY.encode() in content for content in [*opened, said.encode()])
    for path in [*root.rglob("*"), *mail.rglob("*")]:
        assert CANARY not in path.name
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    for name in NAMES:
        assert CANARY not in (tmp_path / name / "log.jsonl").read_text(), "nor is one in the log"


@pytest.mark.parametrize("thrown", ["pipe", "folder", "link", "huge", "garbage", "nothing"])
def test_what_others_throw_into_the_folder_holds_nobody_up(sites: Sites, tmp_path: Path, thrown: str) -> None:
    keys, mail = make_keys(tmp_path), tmp_path / "mail"
    post = FolderPost(mail / FEDERATION)
    site = FolderMailbox(mail, "north", most=1 << 20)
    mine = keys["coordinator"].seal(b"question", keys["north"].card, FEDERATION, 1)

    def throw(path: Path) -> None:
        path.unlink(missing_ok=True)
        if thrown == "pipe":
            os.mkfifo(path)
        elif thrown == "folder":
            path.mkdir()
        elif thrown == "link":
            path.symlink_to(tmp_path / "north" / "private.key")
        elif thrown == "huge":
            with path.open("wb") as file:
                file.truncate(1 << 40)  # a sparse file: 1 TiB that takes no room
        else:
            path.write_bytes(b"\0" * 300 if thrown == "garbage" else b"")

    post.put("north", 1, mine)
    throw(mail / FEDERATION / get_message_name(2, "north"))
    found = list(site.fetch())
    assert found[0] == mine
    assert all(len(content) <= 4096 for content in found[1:])
    throw(mail / FEDERATION / get_answer_name(1, "north"))
    found = [content for content in [post.get("north", 1)] if content is not None]
    assert all(len(content) <= 4096 for content in found)
    secret = (tmp_path / "north" / "private.key").read_bytes()
    assert secret not in found


def test_the_sites_own_answer_is_waited_for_when_others_write_one(sites: Sites, tmp_path: Path) -> None:
    keys, mail = make_keys(tmp_path), tmp_path / "mail"
    step = sites.step([], sum="ffa", transport={
        "kind": "folder", "path": str(mail), "keys": "c", "member_cards": members(tmp_path)})  # fmt: skip
    work = sites.work(step, digest=FEDERATION)
    post, site = FolderPost(mail / FEDERATION), FolderMailbox(mail, "north")
    gotten, right = FolderPost.get, keys["north"].seal(b"answer", keys["coordinator"].card, FEDERATION, 1)
    written = iter([b"LUE1 rubbish", keys["south"].seal(b"false", keys["coordinator"].card, FEDERATION, 1), right])

    def writing(self: FolderPost, name: str, number: int) -> bytes | None:
        if list(site.fetch()):
            (mail / FEDERATION / get_answer_name(1, "north")).write_bytes(next(written))
        return gotten(self, name, number)

    post.get = writing.__get__(post)  # type: ignore[method-assign]
    channel = EnvelopeChannel(work, keys["coordinator"], {"north": keys["north"].card}, post, 30.0)
    assert channel.exchange(1, {"north": b"question"}) == {"north": b"answer"}
    assert "what came as the answer of site north is none" in sites.said("warning")[-1]


def test_the_log_of_what_was_refused_names_no_text(sites: Sites, tmp_path: Path, monkeypatch: Any) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch)
    order = attack.order.model_copy(update={"tune": {"technique": {"kind": CANARY}}})
    assert attack.throw(FederationMessage(order).encode(), 0) == []
    [entry] = [line for line in SiteLedger(attack.server._folder).read() if line.way == "refused"]
    assert CANARY not in entry.why
    assert entry.why == "the order's settings are none of a training here"
