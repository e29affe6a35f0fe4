"""Sites of one process that compare rows, each with keys and rows, and texts for them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.core.events import StepEventEmitter
from luthier.core.step import StepContext
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.decontamination.site import FOLDER, LEFT_OUT, SiteDecontamination
from luthier.federated.measure import describe_folder
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.messages import pack_tensors, unpack_tensors
from tuning import _data, chat

FEDERATION = "ab" * 16
SETTINGS = DecontaminationSettings()
Envelopes = dict[str, dict[str, Any]]
"""What each site wrote, by reader."""


def draw_texts(count: int, seed: int) -> list[str]:
    """Texts of twelve to twenty words that say nothing."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(400)]
    return [" ".join(chance.choices(words, k=chance.randint(12, 20))) for _ in range(count)]


def change_words(text: str, number: int, seed: int) -> str:
    """The text with so many other words."""
    chance, words = random.Random(seed), text.split()
    for at in chance.sample(range(len(words)), number):
        words[at] = "".join(chance.choices("klmnop", k=5))
    return " ".join(words)


@dataclass
class Group:
    """Sites of one process, each with keys and rows."""

    works: dict[str, StepContext]
    identities: dict[str, FederationIdentity]
    notes: list[str]

    def open(self, name: str, settings: DecontaminationSettings = SETTINGS) -> SiteDecontamination:
        peers = {own.card.fingerprint: own.card for other, own in self.identities.items() if other != name}
        return SiteDecontamination(self.works[name], self.identities[name], peers, settings, FEDERATION)

    def fingerprint(self, name: str) -> str:
        return self.identities[name].card.fingerprint

    def deal(self, written: Mapping[str, Mapping[str, Any]], reader: str) -> dict[str, Any]:
        """What others wrote to one site."""
        own = self.fingerprint(reader)
        return {self.fingerprint(sender): by[own] for sender, by in written.items() if own in by}

    def ask(self, settings: DecontaminationSettings = SETTINGS) -> Envelopes:
        """What all sites ask by the first bands."""
        return {name: self.open(name, settings).ask(1) for name in self.works}

    def ask_more(self, answered: Envelopes, settings: DecontaminationSettings = SETTINGS) -> Envelopes:
        """What all sites ask about their candidates."""
        return {name: self.open(name, settings).ask_more(3, self.deal(answered, name)) for name in self.works}

    def evaluate(self, asked: Envelopes, number: int, settings: DecontaminationSettings = SETTINGS) -> Envelopes:
        """What all sites answer by message 2 or 4."""
        return {name: self.open(name, settings).evaluate(number, self.deal(asked, name)) for name in self.works}

    def verify(self, settings: DecontaminationSettings = SETTINGS) -> Envelopes:
        """All messages but the last; returns what sites answered about candidates."""
        candidates = self.ask_more(self.evaluate(self.ask(settings), 2, settings), settings)
        return self.evaluate(candidates, 4, settings)

    def compare(self, settings: DecontaminationSettings = SETTINGS) -> dict[str, set[str]]:
        """Run all messages; returns the ids that are left out, by site."""
        verified = self.verify(settings)
        for name in self.works:
            self.open(name, settings).leave_out(5, self.deal(verified, name), None)
        return {name: {line["id"] for line in self.read_left_out(name)} for name in self.works}

    def read_left_out(self, name: str) -> list[dict[str, Any]]:
        text = (self.works[name].scratch / FOLDER / LEFT_OUT).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def open_envelope(self, sender: str, reader: str, envelope: Any, number: int) -> dict[str, Any]:
        """What a site wrote to another, as that one reads it."""
        content = self.identities[reader].open(
            envelope.numpy().tobytes(), self.identities[sender].card, FEDERATION, number
        )
        return unpack_tensors(content)

    def reseal(self, sender: str, reader: str, tensors: Mapping[str, Any], number: int, name: str = FEDERATION) -> Any:
        """An envelope that a site itself wrote, with other contents."""
        sealed = self.identities[sender].seal(pack_tensors(dict(tensors)), self.identities[reader].card, name, number)
        return torch.frombuffer(bytearray(sealed), dtype=torch.uint8)


def build_group(root: Path, rows: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> Group:
    """Sites with training rows and held-out rows."""
    works, notes = {}, list[str]()
    for at, (name, (train, test)) in enumerate(rows.items()):
        folder, scratch = root / name / "data", root / name / "scratch"
        folder.mkdir(parents=True)
        scratch.mkdir()
        examples = [
            [chat(text, "billing", 1000 * at + line) for line, text in enumerate(part)] for part in (train, test)
        ]
        _data(folder, {"train": examples[0], "validation": examples[1][::2], "test": examples[1][1::2]})
        data = describe_folder(folder, f"{at + 1:064x}", "prepare", "dataset", {})
        works[name] = StepContext(
            name=name, inputs={"data": data}, folder=scratch, scratch=scratch, recipe_dir=scratch,
            events=StepEventEmitter.saying(notes.append),
        )  # fmt: skip
    return Group(works, {name: FederationIdentity.create(name) for name in rows}, notes)
