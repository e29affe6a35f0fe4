"""A masked round in memory, whose sites drop out and whose coordinator lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.secure_aggregation.dropout_masks import (
    DropoutMasks,
    MaskContext,
    MaskKeys,
    RevealedShares,
    unmask_sum,
)

IDENTITIES = {found.card.fingerprint: found for found in (FederationIdentity.create(f"s{at}") for at in range(12))}
STAGES = ("keys", "shares", "numbers", "signature", "reveal")


class Round:
    """A masked round in memory, with the sites' own code and a coordinator that can lie."""

    def __init__(self, folder: Path, count: int, least: int) -> None:
        self.names = sorted(sorted(IDENTITIES)[:count])
        self.about = MaskContext(federation="ab" * 16, round=1, digest="d", group=tuple(self.names), least=least)
        self.sites = {}
        for name in self.names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            peers = {other: IDENTITIES[other].card for other in self.names if other != name}
            self.sites[name] = DropoutMasks(IDENTITIES[name], peers, folder / name)
            self.sites[name].forget()
        chance = numpy.random.default_rng(5)
        self.numbers = {name: chance.integers(0, 1 << 62, 50, dtype=numpy.uint64) for name in self.names}
        self.keys: dict[str, MaskKeys] = {}
        self.shares: dict[str, dict[str, str]] = {}
        self.masked: dict[str, Any] = {}
        self.signed: dict[str, str] = {}

    def remaining(self, stage: str, lost: Mapping[str, str]) -> list[str]:
        """Sites that answer in a stage."""
        at = STAGES.index(stage)
        return [name for name in self.names if name not in lost or STAGES.index(lost[name]) > at]

    def offer(self, names: list[str]) -> None:
        self.keys = {name: self.sites[name].begin(self.about) for name in names}

    def share(self, names: list[str]) -> None:
        self.shares = {name: self.sites[name].share(self.keys) for name in names}

    def asked(self, reader: str) -> dict[str, str]:
        return {sender: given[reader] for sender, given in self.shares.items() if reader in given}

    def mask(self, names: list[str]) -> None:
        senders = sorted(self.shares)
        self.masked = {name: self.sites[name].mask(self.numbers[name], self.asked(name), senders) for name in names}

    def sign(self, names: list[str]) -> None:
        self.signed = {name: self.sites[name].sign_survivors(sorted(self.masked)) for name in names}

    def reveal(self, names: list[str]) -> Any:
        revealed = RevealedShares()
        for name in names:
            seeds, masks = self.sites[name].reveal(self.signed)
            for owner, share in seeds.items():
                revealed.seeds.setdefault(owner, {})[name] = share
            for owner, share in masks.items():
                revealed.masks.setdefault(owner, {})[name] = share
        total = sum(self.masked.values(), numpy.zeros(50, numpy.uint64))
        return unmask_sum(total, self.about, self.keys, sorted(self.shares), sorted(self.masked), revealed)

    def play(self, lost: Mapping[str, str]) -> Any:
        """The whole round; `lost` says in which stage a site stops answering."""
        for stage, play in zip(STAGES[:-1], (self.offer, self.share, self.mask, self.sign), strict=True):
            play(self.remaining(stage, lost))
        return self.reveal(self.remaining("reveal", lost))

    def to(self, stage: str) -> Round:
        """Play honestly until a stage is due."""
        plays = dict(zip(STAGES, (self.offer, self.share, self.mask, self.sign), strict=False))
        for name in STAGES[: STAGES.index(stage)]:
            plays[name](self.names)
        return self
