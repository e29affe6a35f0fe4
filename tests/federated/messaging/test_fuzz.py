"""Whatever comes in place of a message is one clear error: where messages are read, at a site, at the coordinator."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federations import Sites
from luthier.core.errors import LuthierError
from luthier.federated.errors import MessageError
from luthier.federated.messaging import messages
from luthier.federated.messaging.keys import read_envelope_header
from luthier.federated.messaging.messages import (
    ANSWERS,
    MAGIC,
    QUESTIONS,
    BlindedRows,
    BlindRequest,
    CandidateRequest,
    ComparisonRequest,
    CountAnswer,
    Enrolled,
    EvaluatedRows,
    FederationMessage,
    Final,
    KeyList,
    LeaveOutRequest,
    LeaveOutResponse,
    LocalWork,
    Measured,
    Order,
    Rejection,
    RoundKeys,
    RoundStart,
    RoundUpdate,
    ShareList,
    SharesRevealed,
    SharesSent,
    SiteQuestion,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
)
from luthier.federated.secure_aggregation.dropout_masks import MaskKeys
from luthier.federated.secure_aggregation.masked_round import MaskedGroup, MaskedRound
from luthier.federated.secure_aggregation.masks import MASKED
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import SiteChannel
from masked_rounds import IDENTITIES, Round
from site_attacks import FEDERATION, Attack, build_attack

COUNT = count()
ANY = (*QUESTIONS, SiteQuestion, *ANSWERS)
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
TENSORS = {"weight/a": torch.ones(3, 2), "weight/b": torch.zeros(4)}
KEYS = MaskKeys(mask="1" * 64, share="2" * 64, seed_digest="3" * 64, chosen=["4" * 64], signature="5" * 128)
ORDER = Order(
    federation=FEDERATION, tune={"technique": {"kind": "lora", "r": 4}, "data": "sites"}, sum={"kind": "ffa"}, rounds=2,
    local=LocalWork(epochs=1.0), seed=3, base="b" * 64, code="c" * 64, wants_classes=False,
)  # fmt: skip
EVERY: list[FederationMessage] = [
    FederationMessage(ORDER),
    FederationMessage(Enrolled(rows=3, classes={"a": "b"})),
    FederationMessage(Rejection(message="no")),
    FederationMessage(RoundStart(round=1), TENSORS),
    FederationMessage(RoundUpdate(round=1, answers="0" * 64, rows=3, steps=1, loss=0.5), TENSORS),
    FederationMessage(RoundKeys(keys=KEYS)),
    FederationMessage(KeyList(round=1, keys={"6" * 64: KEYS})),
    FederationMessage(SharesSent(shares={"6" * 64: "00"})),
    FederationMessage(ShareList(round=1, shares={"6" * 64: "00"}, senders=["6" * 64])),
    FederationMessage(SurvivorList(round=1, survivors=["6" * 64])),
    FederationMessage(SurvivorSignature(signature="00")),
    FederationMessage(UnmaskRequest(round=1, signatures={"6" * 64: "00"})),
    FederationMessage(SharesRevealed(seeds={"6" * 64: "00"}, masks={})),
    FederationMessage(BlindRequest()),
    FederationMessage(BlindedRows()),
    FederationMessage(ComparisonRequest()),
    FederationMessage(EvaluatedRows()),
    FederationMessage(CandidateRequest()),
    FederationMessage(LeaveOutRequest()),
    FederationMessage(LeaveOutResponse()),
    FederationMessage(CountAnswer(answers="0" * 64)),
    FederationMessage(Final(), TENSORS),
    FederationMessage(
        SiteQuestion(
            federation=FEDERATION, query={"kind": "classes"}, stage="counts", code="c" * 64, seed=3, least_rows=5
        )
    ),
    FederationMessage(Measured(rows=3, sums={"accuracy": [1.0, 2.0]})),
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**31, 2**63, -(2**70), 10**400]),
    st.sampled_from(["", "a", "\x1b[2J"]),
    st.sampled_from([0.5, -1.0, 1e308]), st.just([]), st.just({}),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def wrap(header: bytes, tensors: bytes = b"") -> bytes:
    return MAGIC + len(header).to_bytes(8, "big") + header + tensors


def raw_tensors(about: Any, content: bytes) -> bytes:
    """Tensors with a header of one's own, as safetensors has it."""
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text + content


def test_every_kind_of_message_is_thrown() -> None:
    assert {message.header.kind for message in EVERY} == {kind.model_fields["kind"].default for kind in ANY}
    for message in EVERY:
        assert FederationMessage.decode(message.encode(), *ANY).header == message.header


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that were cut, turned round, written over or lengthened."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        how, at = (
            draw(st.sampled_from(["cut", "flip", "write", "insert", "length"])),
            draw(st.integers(0, len(content))),
        )
        if how == "cut":
            del content[at:]
        elif how == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            content[at : at + 4] = draw(st.binary(min_size=1, max_size=6))
        elif how == "insert":
            content[at:at] = draw(st.sampled_from([b'"kind": "order", ', b"NaN", b"[[[[", b"\0" * 9, b"\xff\xfe"]))
        else:
            content[4:12] = draw(st.sampled_from([2**63, 2**64 - 1, 0, 7])).to_bytes(8, "big")
    return bytes(content)


def read_anything(content: bytes) -> tuple[str, FederationMessage | None]:
    """What is said against some bytes, or the message that they are."""
    try:
        return "", FederationMessage.decode(content, *ANY)
    except MessageError as error:
        return error.message, None


@QUICK
@given(st.data())
def test_spoilt_bytes_are_refused_or_whole(data: st.DataObject) -> None:
    content = data.draw(spoilt(data.draw(st.sampled_from(EVERY)).encode()))
    said, found = read_anything(content)
    assert found is None or all(bool(value.isfinite().all()) for value in found.tensors.values())
    assert len(said) < 400


@QUICK
@given(st.data())
def test_settings_of_any_kind_are_refused_or_right(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(EVERY))
    header = json.loads(json.dumps(message.header.model_dump(mode="json")))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([*sorted(header), "another"]))
        header[name] = data.draw(VALUES)
    said, _ = read_anything(wrap(json.dumps(header).encode(), messages.pack_tensors({})))
    assert said.isprintable()


TWICE = b'{"kind": "enrolled", "rows": 3, "rows": 300}'
BAD_HEADERS: dict[str, bytes] = {
    "deep": b"[" * 1_000_000,
    "deep values": b'{"kind": "order", "tune": ' + b'{"a":' * 400_000 + b"1" + b"}" * 400_000 + b"}",
    "a name twice": TWICE,
    "no number": b'{"kind": "update", "round": 1, "answers": "", "loss": NaN}',
    "a number without bound": b'{"kind": "update", "round": 1, "answers": "", "loss": 1e999}',
    "a number of a million digits": b'{"kind": "enrolled", "rows": ' + b"9" * 1_000_000 + b"}",
    "more rows than there are": b'{"kind": "enrolled", "rows": 99999999999999999999}',
    "a list": b'["order"]',
    "an unknown kind": b'{"kind": "rows"}',
    "half a letter": b'{"kind": "\xff"}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_is_none_is_one_clear_error(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="a message cannot be read") as caught:
            FederationMessage.decode(wrap(BAD_HEADERS[name], messages.pack_tensors({})), *ANY)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) < 200
    assert peak < 400 * len(BAD_HEADERS[name]) + 1_000_000


def one_tensor(dtype: str, shape: Any, size: int, begin: int = 0, end: int | None = None) -> bytes:
    offsets = [begin, size if end is None else end]
    return raw_tensors({"weight/a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, bytes(size))


BAD_TENSORS: dict[str, bytes] = {
    "a huge shape": one_tensor("F32", [1 << 40], 8),
    "a shape beyond all numbers": one_tensor("F32", [1 << 62, 1 << 62], 8),
    "a negative shape": one_tensor("F32", [-2, -1], 8),
    "objects": one_tensor("O", [1], 8),
    "text": one_tensor("U1", [2], 8),
    "truths": one_tensor("BOOL", [8], 8),
    "eighths": one_tensor("F8_E4M3", [8], 8),
    "complex numbers": one_tensor("C64", [1], 8),
    "offsets beyond the end": one_tensor("F32", [2], 8, 0, 1 << 60),
    "offsets backwards": one_tensor("F32", [2], 8, 8, 0),
    "holes": one_tensor("F32", [1], 8, 4, 8),
    "the same bytes twice": raw_tensors(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("weight/a", "weight/b")}, bytes(8)
    ),
    "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
    "a deep header": raw_tensors(b"[" * 100_000, b""),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_are_none_are_one_clear_error(name: str) -> None:
    header = json.dumps({"kind": "round", "round": 1}).encode()
    with pytest.raises(MessageError, match=r"tensors cannot be read|which no message has"):
        FederationMessage.decode(wrap(header, BAD_TENSORS[name]), RoundStart)


def test_a_name_twice_among_tensors_is_refused_or_read_once() -> None:
    first = b'"weight/a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    about = b"{" + first + b"," + first.replace(b"[0,4]", b"[4,8]") + b"}"
    with pytest.raises(MessageError):
        messages.unpack_tensors(raw_tensors(about, bytes(8)))


@QUICK
@given(st.data())
def test_spoilt_envelopes_are_refused(data: st.DataObject) -> None:
    one, other = list(IDENTITIES.values())[:2]
    whole = one.seal(b"question", other.card, FEDERATION, 1)
    envelope = data.draw(spoilt(whole))
    if envelope == whole:
        return
    with pytest.raises(MessageError) as caught:
        other.open(envelope, one.card, FEDERATION, 1)
    assert caught.value.message.isprintable()
    with suppress(MessageError):
        read_envelope_header(envelope)


@pytest.fixture
def attack(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    return build_attack(sites, tmp_path, monkeypatch)


def throw(attack: Attack, content: bytes, number: int, federation: str) -> None:
    """A message of the coordinator's own key: the site answers, refuses, or says nothing; and nothing else leaves."""
    before = len(attack.refusals())
    replies = attack.throw(content, number, federation=federation)
    if not replies:
        assert len(attack.refusals()) == before + 1
    for reply in replies:
        header = FederationMessage.decode(reply, *ANSWERS).header
        assert isinstance(header, Rejection | Enrolled | RoundUpdate)


@QUICK
@given(data=st.data())
def test_an_order_of_any_settings_is_one_clear_answer(attack: Attack, data: st.DataObject) -> None:
    order = attack.order.model_dump(mode="json")
    name = data.draw(st.binary(min_size=8, max_size=8)).hex()
    order["federation"] = name
    where = data.draw(st.sampled_from([order, order["tune"], order["sum"], order["local"]]))
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(
            st.sampled_from([*sorted(where), "optimizer", "technique", "objective", "curriculum", "privacy"])
        )
        where[key] = data.draw(VALUES)
    throw(attack, wrap(json.dumps(order).encode(), messages.pack_tensors({})), 0, name)


CHANGES: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "drop": lambda key, value: {},
    "empty": lambda key, value: {key: value[:0]},
    "double": lambda key, value: {key: value.double()},
    "scalar": lambda key, value: {key: torch.tensor(1.0)},
    "whole numbers": lambda key, value: {key: value.long()},
    "half of a pair": lambda key, value: {"up/x": value},
    "no name": lambda key, value: {"": value},
    "a name of nothing": lambda key, value: {"weight/": value},
    "a name a megabyte long": lambda key, value: {"weight/" + "x" * 1_000_000: value},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_round_of_any_weights_is_one_clear_answer(attack: Attack, change: str) -> None:
    attack.throw(FederationMessage(attack.order).encode(), 0)
    whole = FederationMessage.decode(attack.start, RoundStart)
    key = sorted(whole.tensors)[0]
    tensors = {name: value for name, value in whole.tensors.items() if name != key}
    content = FederationMessage(whole.header, {**tensors, **CHANGES[change](key, whole.tensors[key])}).encode()
    throw(attack, content, 1, FEDERATION)
    assert not SiteLedger(attack.server._folder).count_answered()
    assert all(len(why) <= 500 for why in attack.refusals())


class Liars(SiteChannel):
    """Sites that answer as their code does, but for one that answers anything in one stage."""

    def __init__(self, one: Round, stage: int, reply: Any) -> None:
        self.one, self.stage, self.reply = one, stage, reply
        self.sites = tuple(one.names)
        self.cards = {name: IDENTITIES[name].card for name in one.names}

    def exchange(self, number: int, contents: Any) -> dict[str, bytes]:
        stage = number - 1
        found = {name: FederationMessage(*self.play(name, stage, contents[name])).encode() for name in contents}
        if stage == self.stage:
            found[self.one.names[0]] = self.reply(found[self.one.names[0]])
        return found

    def play(self, name: str, stage: int, content: bytes) -> tuple[Any, ...]:
        site = self.one.sites[name]
        if stage == 0:
            return (RoundKeys(keys=site.begin(self.one.about)),)
        header = FederationMessage.decode(content, *QUESTIONS).header
        if stage == 1:
            return (SharesSent(shares=site.share(header.keys)),)
        if stage == 2:
            masked = site.mask(self.one.numbers[name], header.shares, header.senders)
            return RoundUpdate(round=1, answers="d"), {MASKED: torch.from_numpy(masked.view("int64"))}
        if stage == 3:
            return (SurvivorSignature(signature=site.sign_survivors(header.survivors)),)
        seeds, masks = site.reveal(header.signatures)
        return (SharesRevealed(seeds=seeds, masks=masks),)

    def close(self) -> None: ...


@QUICK
@given(data=st.data())
def test_a_site_that_answers_anything_in_a_masked_round_is_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    import numpy

    folder = tmp_path / str(next(COUNT))
    one = Round(folder, 4, 3)
    stage = data.draw(st.integers(0, 4))

    def spoil(reply: bytes) -> bytes:
        how = data.draw(st.sampled_from(["bytes", "settings", "another"]))
        if how == "bytes":
            return bytes(data.draw(spoilt(reply)))
        if how == "another":
            return data.draw(st.sampled_from(EVERY)).encode()
        message = FederationMessage.decode(reply, *ANSWERS)
        header = message.header.model_dump(mode="json")
        texts = st.sampled_from(["", "zz", "00", "0" * 132, "ff" * 66, "0" * 2 * 148, one.names[1]])
        for key in header:
            if isinstance(header[key], dict):
                inner = data.draw(st.dictionaries(st.sampled_from([*header[key], *one.names, "x"]), texts, max_size=3))
                header[key] = {**header[key], **inner}
            elif isinstance(header[key], str) and key != "kind":
                header[key] = data.draw(texts)
        return wrap(json.dumps(header).encode(), messages.pack_tensors(message.tensors))

    def read(name: str, content: bytes, kind: Any) -> FederationMessage:
        return FederationMessage.decode(content, kind, Rejection)

    liars = Liars(one, stage, spoil)
    masked = MaskedRound(liars, [MaskedGroup(one.about, liars.cards)], 1, folder / "replies", read, 3)
    with suppress(LuthierError):
        gathered = masked.gather(dict.fromkeys(one.names, b""))
        found = {name: read(name, reply, RoundUpdate).tensors.get(MASKED) for name, reply in gathered.items()}
        fit = {name: value for name, value in found.items() if value is not None and value.shape == (50,)}

        def add(names: Sequence[str]) -> Any:
            some = [fit[name].numpy().view(numpy.uint64) for name in names if name in fit]
            return sum(some, numpy.zeros(50, numpy.uint64))

        masked.unmask(add)


UPDATES: dict[str, Any] = {
    "bytes": lambda reply: reply[:-3],
    "rows beyond all numbers": lambda reply: edit(reply, rows=10**300),
    "no rows": lambda reply: edit(reply, rows=None),
    "negative rows": lambda reply: edit(reply, rows=-5),
    "nothing": lambda reply: b"",
}


def edit(reply: bytes, **fields: Any) -> bytes:
    message = FederationMessage.decode(reply, RoundUpdate)
    header = {**message.header.model_dump(mode="json"), **fields}
    return wrap(json.dumps(header).encode(), messages.pack_tensors(message.tensors))


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_that_is_none_ends_a_run_with_one_clear_error(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer = SiteWorker.answer

    def lying(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        return bytes(UPDATES[name](reply)) if number == 1 else reply

    monkeypatch.setattr(SiteWorker, "answer", lying)
    step = sites.step(["north"], rounds=1, sum="ffa", local={"steps": 1})
    work = sites.work(step, digest=f"{sorted(UPDATES).index(name)}f" * 16)
    with pytest.raises(MessageError) as caught:
        step.make(work)
    assert caught.value.message.isprintable()
    assert not any(work.folder.iterdir())
