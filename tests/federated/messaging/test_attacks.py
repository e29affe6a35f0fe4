"""Attacks that succeed on an unprotected run and fail on a protected one; replays, downgrades and stolen keys are one
clear error each."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federations import Sites, build_sites
from luthier.chat.messages import Example
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import LuthierError
from luthier.federated.messaging.envelopes import EnvelopeChannel, Post, read_member_cards
from luthier.federated.messaging.keys import ENVELOPE, FederationIdentity
from luthier.federated.messaging.messages import MAGIC, FederationMessage, Rejection, RoundUpdate
from luthier.federated.secure_aggregation.masks import MaskSettings
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.models.load import load_model
from luthier.tune.objectives.sft import Sft
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums
from site_attacks import FEDERATION, Attack, build_attack, make_keys, members, policy
from tuning import chat, examples


@pytest.fixture
def attack(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    return build_attack(sites, tmp_path, monkeypatch)


def older(attack: Attack) -> list[Any]:
    """An envelope that names an older format."""
    envelope = attack.keys["coordinator"].seal(attack.start, attack.keys["north"].card, FEDERATION, 1)
    return attack.throw_envelope(b"LUE0" + envelope[len(ENVELOPE) :])


def resealed(attack: Attack) -> list[Any]:
    """A round that somebody recorded, sealed for another federation."""
    attack.throw(attack.start, 1)
    return attack.throw(attack.start, 1, federation="cd" * 16)


DOWNGRADES: dict[str, tuple[Callable[[Attack], list[Any]], str]] = {
    "an older envelope": (older, "no envelope of a federation"),
    "an older message": (lambda a: a.throw(b"LUF0" + a.start[len(MAGIC) :], 1), "no message of a federation"),
    "a round of another federation": (resealed, "comes before its order"),
    "an order again, without masks": (
        lambda a: a.throw(FederationMessage(a.order.model_copy(update={"privacy": None, "proximal": 0.5})).encode(), 0),
        "came before with other contents",
    ),
    "a later stage of a round without stages": (
        lambda a: a.throw(FederationMessage(a.order.model_copy(update={"rounds": 2})).encode(), 1),
        "expected a message of kind",
    ),
}


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_replay_or_downgrade_is_one_clear_error_and_nothing_leaves(attack: Attack, name: str) -> None:
    throw, why = DOWNGRADES[name]
    assert len(attack.throw(FederationMessage(attack.order).encode(), 0)) == 1
    assert throw(attack) == []
    assert why in attack.refusals()[-1]


@pytest.mark.parametrize(
    ("settings", "masks", "least", "why"),
    [
        ({"require_masks": True}, None, None, "the order has no masks"),
        ({}, MaskSettings(), 2, "more than two thirds of the sites must remain"),
        ({}, MaskSettings(groups=2), None, "masks within a group of 4 sites"),
        ({"least_group": 3}, MaskSettings(groups=2), None, ""),
        ({"least_group": 4}, MaskSettings(groups=2), 3, "of which 3 must remain"),
        ({"least_group": 3}, MaskSettings(groups=2), 3, ""),
    ],
)
def test_weaker_masks_than_agreed_are_refused(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, masks: Any, least: Any, why: str
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, **settings)
    peers = tuple(FederationIdentity.create(name).card for name in ("south", "west", "east"))
    attack.server._inputs = SiteInputs(data=sites.data["north"], model=sites.base, peers=peers)
    group = sorted(card.fingerprint for card in (attack.keys["north"].card, *peers))
    order = attack.order.model_copy(update={"masks": masks, "least": least, "group": group if masks else []})
    [reply] = attack.throw(FederationMessage(order).encode(), 0)
    if why:
        assert why in FederationMessage.decode(reply, Rejection).header.message
    else:
        assert b"enrolled" in reply


def test_a_recorded_update_is_not_taken_again(sites: Sites, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    step = sites.step([], sum="ffa", transport={
        "kind": "folder", "path": "mail", "keys": "c", "member_cards": members(tmp_path)})  # fmt: skip
    work = sites.work(step, digest="ab" * 16)
    reply = FederationMessage(RoundUpdate(round=1, answers="0" * 64, rows=3, steps=1, loss=1.0)).encode()
    recorded = keys["north"].seal(reply, keys["coordinator"].card, work.digest, 1)

    class Replay(Post):
        """Gives what was recorded in round 1, whatever was asked."""

        def put(self, site: str, number: int, envelope: bytes) -> None: ...

        def get(self, site: str, number: int) -> bytes | None:
            return recorded

        def discard(self, site: str, number: int) -> None: ...

        def close(self) -> None: ...

    channel = EnvelopeChannel(work, keys["coordinator"], {"north": keys["north"].card}, Replay(), 0.4)
    assert channel.exchange(1, {"north": b"x"}) == {"north": reply}
    assert channel.exchange(2, {"north": b"x"}) == {}
    assert "has number 1 where 2 was expected" in sites.said("warning")[-1]
    channel.cards = {"south": keys["south"].card}
    assert channel.exchange(1, {"south": b"x"}) == {}
    assert "is not the key of south" in sites.said("warning")[-1]


def test_a_revoked_key_is_neither_read_nor_written_to(sites: Sites, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    stolen = keys["coordinator"].card.fingerprint[:16]
    inputs = SiteInputs(data=sites.data["north"], model=sites.base, peers=(keys["south"].card,))
    for gone, who in ((stolen, "coordinator"), (keys["south"].card.fingerprint, "south")):
        with pytest.raises(LuthierError, match=f"the key of {who} .* was revoked"):
            SiteServer(
                tmp_path / "north", keys["north"], keys["coordinator"].card, None, inputs,  # type: ignore[arg-type]
                policy(revoked=[gone]),
            )  # fmt: skip
    assert set(read_member_cards(members(tmp_path), tmp_path)) == {"north", "south"}
    with pytest.raises(LuthierError, match="has keys that were revoked"):
        read_member_cards(members(tmp_path), tmp_path, (keys["south"].card.fingerprint[:12],))


WORDS = ("billing", "delivery", "account", "late", "parcel", "refund", "card", "login", "damaged", "twice")


def draw_secrets(first: int) -> list[Example]:
    """Rows that say something random each."""
    chance = random.Random(first)
    return [
        chat(f"What is the code of case {first + at}?", " ".join(chance.choices(WORDS, k=5)), first + at)
        for at in range(16)
    ]


def infer_members(sites: Sites, step: Any, inside: list[Example], outside: list[Example], digest: str) -> float:
    """The advantage (share of members found less share of others taken for members) of the best threshold on losses."""
    opened = load_model(sites.federate(step, digest=digest * 16), "float32")
    text = ChatTokenizer.load(sites.base.folder)
    dataset = Sft().build_training_examples([*inside, *outside], text)
    sums = compute_row_logprob_sums(opened.model, [row for example in dataset for row in example.rows], 4096)
    seen, unseen = sums[: len(inside)], sums[len(inside) :]
    return max(
        sum(value >= limit for value in seen) / len(seen) - sum(value >= limit for value in unseen) / len(unseen)
        for limit in sums
    )


def bound_advantage(epsilon: float, delta: float) -> float:
    """What no attacker exceeds: for each threshold, hits ≤ exp(ε) false alarms + δ, and the same of the misses."""
    return (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)


@pytest.mark.slow
def test_members_are_found_without_noise_and_hardly_with_it(tmp_path: Path) -> None:
    inside, outside = draw_secrets(100), draw_secrets(500)
    rows = [*examples(16), *inside]
    sites = build_sites(tmp_path, {"north": rows[::2], "south": rows[1::2]})
    loop = {"learning_rate": 2e-2, "batch_size": 8, "technique": {"kind": "lora", "r": 8}, "on_loss_spike": "off"}
    settings: dict[str, Any] = {"sum": "ffa", "tune": loop, "local": {"epochs": 10}, "rounds": 4}
    names = ["north", "south"]
    plain = infer_members(sites, sites.step(names, **settings), inside, outside, "1a")
    privacy = {"epsilon": 1.0, "delta": 1e-3}
    noisy = infer_members(sites, sites.step(names, **settings, privacy=privacy), inside, outside, "1b")
    assert plain > 0.6 > bound_advantage(1.0, 1e-3), "the attack succeeds"
    assert noisy < bound_advantage(1.0, 1e-3) + 0.3, "16 members measure the advantage to about 0.3"
