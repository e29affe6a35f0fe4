"""A bench for augmenters: a small prepared data set, wishes for its rows, and the step over it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.events import Event, Events
from luthier.core.step import Work
from luthier.data.augment.desk import Desk
from luthier.data.augment.rows import Rows
from luthier.data.augment.wishes import seed_of
from luthier.data.augmenter import Around, Wish
from luthier.data.pipeline import Options, prepare
from luthier.data.steps.augment import Augment
from luthier.data.steps.prepare import Prepare
from luthier.text.dataset import Summary, summary

THINGS = {
    "delivery": ["parcel", "shipment", "delivery van", "courier", "order"],
    "billing": ["invoice", "payment", "refund", "price", "bill"],
    "account": ["password", "profile", "login", "address", "newsletter"],
}
SAYINGS = [
    "Hello, I cannot find the {} and I am worried, can somebody help me today?",
    "Where is the {}, please? My wife Mary said that she had bought it in Germany.",
    "The {} was wrong again! He told me that his company would repair it quickly.",
    "I want to know whether the {} could be changed before Monday.",
    "My father is an old man and does not understand the {}, so what should he do?",
    "Please send me the {} as quickly as you can; they're waiting for it.",
    "I need help with the {}.",
    "The {} looks broken, so I would like to purchase a new one.",
]


def rows() -> list[dict[str, str]]:
    """Short tickets of three classes, the last class rarer than the others."""
    found = [
        {"message": saying.format(thing), "category": label, "customer": f"C{number}"}
        for label, things in THINGS.items()
        for number, saying in enumerate(SAYINGS)
        for thing in things
    ]
    return [row for at, row in enumerate(found) if row["category"] != "account" or at % 3 == 0]


@dataclass
class Made:
    """The artifact of one making, and what was said."""

    artifact: Artifact
    said: list[Event]

    @property
    def summary(self) -> Summary:
        return summary(self.artifact)

    @property
    def notes(self) -> str:
        return "\n".join(event.text for event in self.said if event.kind in ("note", "warning"))

    def frame(self, split: str, of: Artifact | None = None) -> pl.DataFrame:
        return pl.read_parquet((of or self.artifact).path(f"examples/{split}.parquet"))

    def added(self) -> pl.DataFrame:
        return self.frame("train").filter(pl.col("meta").str.contains('"augmented"'))

    def events(self) -> pl.DataFrame:
        return pl.read_parquet(self.artifact.path("events.parquet"))

    def files(self) -> dict[str, str]:
        return {entry.path: entry.digest for entry in list_files(self.artifact.folder)}


class Bench:
    """A data set in a folder of its own."""

    def __init__(self, folder: Path, own: Sequence[dict[str, str]] | None = None, **settings: Any) -> None:
        self.folder = folder
        self._count = 0
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=["message", "category", "customer"])
            writer.writeheader()
            writer.writerows(own or rows())
        self.data = self.prepared(**settings)

    def prepared(self, **settings: Any) -> Artifact:
        """The data set, made by the step `prepare`."""
        source = {"kind": "csv", "path": "rows.csv", "prompt": "message", "answer": "category", "group": "customer"}
        told = {"source": source, "split": {"test": 0.2}, **settings}
        step = Prepare(**told)
        work = self._work({}, [])
        prepare(step.source, step.ops, step.split, work, Options(task=step.task))
        return self._artifact(step, work, {})

    @cached_property
    def train(self) -> Rows:
        return Rows.read(self.data, ["train"], self.folder / "train.arrow")

    @property
    def train_rows(self) -> int:
        return summary(self.data).rows["train"]

    def around(self, desk: Desk | None = None) -> Around:
        return Around(self.train, self.folder, desk)

    def wishes(self, kind: str, number: int = 24, seed: int = 7) -> list[Wish]:
        return [Wish(row, 0, seed_of(seed, kind, row.id, 0)) for row in list(self.train.rows())[:number]]

    def augment(
        self,
        augmenters: Sequence[Any],
        seed: int = 7,
        data: Artifact | None = None,
        model: Artifact | None = None,
        **settings: Any,
    ) -> Made:
        """One making of the step."""
        said: list[Event] = []
        named = {"model": "model"} if model is not None else {}
        step = Augment(data="data", augmenters=tuple(augmenters), **named, **settings)
        inputs = {"data": data or self.data, **({"model": model} if model is not None else {})}
        work = self._work(inputs, said, seed)
        step.make(work)
        return Made(self._artifact(step, work, inputs), said)

    def _work(self, inputs: dict[str, Artifact], said: list[Event], seed: int = 7) -> Work:
        self._count += 1
        folder, scratch = self.folder / f"out{self._count}", self.folder / f"scratch{self._count}"
        folder.mkdir()
        scratch.mkdir()
        events = Events(said.append).of("more")
        return Work(
            name="more", inputs=inputs, folder=folder, scratch=scratch, base=self.folder, seed=seed, events=events
        )

    def _artifact(self, step: Any, work: Work, inputs: dict[str, Artifact]) -> Artifact:
        manifest = Manifest(
            digest=work.folder.name.rjust(32, "0"),
            kind=step.kind,
            makes="dataset",
            settings=step.settings(),
            inputs={name: one.digest for name, one in inputs.items()},
            reads={},
            code="",
            seed=work.seed,
            files=list_files(work.folder),
        )
        by_digest: dict[str, Artifact] = {one.digest: one for one in inputs.values()}
        find: Callable[[str], Artifact] = by_digest.__getitem__
        return Artifact(work.folder, manifest, find)
