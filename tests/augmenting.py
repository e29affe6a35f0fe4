"""A bench for augmenters: a small prepared data set, wishes for its rows, and the step over it."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.media import MediaReader
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import StepContext
from luthier.data.augment.requests import seed_of
from luthier.data.augment.rows import SplitRows
from luthier.data.augmenter import AugmentContext, Augmenter, AugmentRequest
from luthier.data.engine.pipeline import PrepareOptions, prepare
from luthier.data.steps.augment import Augment
from luthier.data.steps.prepare import Prepare
from luthier.models.lm.cached import open_lm
from luthier.models.sources.endpoint import EndpointModelSource
from tests.endpoint import Body, Reply, completion

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


def image(number: int) -> str:
    """A small grey picture with a slope and a spot, as a data URL."""
    from PIL import Image

    pixels = bytes((7 * x + 11 * y + 40 * ((x + number) % 5 == 0)) % 256 for y in range(12) for x in range(12))
    out = io.BytesIO()
    Image.frombytes("L", (12, 12), pixels).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def rows() -> list[dict[str, str]]:
    """Short tickets of three classes, the last class rarer than the others."""
    found = [
        {"message": saying.format(thing), "category": label, "customer": f"C{number}", "image": image(number)}
        for label, things in THINGS.items()
        for number, saying in enumerate(SAYINGS)
        for at, thing in enumerate(things)
        if (number + at) % 4  # not everything is said of everything
    ]
    return [row for at, row in enumerate(found) if row["category"] != "account" or at % 3 == 0]


@dataclass
class Made:
    """The artifact of one making, and what was said."""

    artifact: Artifact
    said: list[RunEvent]

    @property
    def summary(self) -> DatasetSummary:
        return DatasetSummary.read(self.artifact)

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


ENDINGS = ("thank you", "best wishes", "as soon as you can", "if that is possible", "and be quick about it")


def answer(body: Body) -> Reply:
    """What a helpful model would say, by rule: the text with another ending, or with its words turned round."""
    text = body["messages"][-1]["content"]
    dice = Random(f"{text}|{body.get('seed')}|{body['temperature']}")
    if "Answer yes or no" in text:
        said = "yes" if dice.random() < 0.8 else "no"
    elif "one more message" in text:
        words = next(line for line in text.splitlines() if line.startswith("- "))[2:].split()
        turned = words if dice.random() < 0.2 else words[::-1]
        said = f"Tell me {dice.choice(ENDINGS)}: {' '.join(turned)}"
    elif "\n\n" in text:
        said = f'Here it is:\n\n"{text.rpartition(chr(10) * 2)[2]} And {dice.choice(ENDINGS)}"'
    else:
        said = f"That depends, {dice.choice(ENDINGS)}."
    cut = body["max_tokens"] < 20
    told = completion(said[:12] if cut else said, body)
    told["choices"][0]["finish_reason"] = "length" if cut else "stop"
    return Reply(told)


def endpoint_model(folder: Path, url: str) -> Artifact:
    """The artifact of a model behind an endpoint, as the step `recipe_dir` makes it."""
    source = EndpointModelSource(url=url, model="helpful")
    source.fetch(folder, folder, lambda text: None)
    (folder / "model.json").write_text(json.dumps({"name": "helpful", "licence": None, "origin": "here"}))
    manifest = Manifest(
        digest="e" * 32, kind="base", makes="model", settings={}, inputs={}, reads={}, code="", seed=0,
        files=list_files(folder),
    )  # fmt: skip
    return Artifact(folder, manifest, lambda digest: pytest.fail("no parents"))


class Bench:
    """A data set in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        own: Sequence[dict[str, str]] | None = None,
        model: Artifact | None = None,
        **settings: Any,
    ) -> None:
        self.folder, self.model = folder, model
        self.source: dict[str, Any] = settings.pop("source", {})
        self.made = 0
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list((own or rows())[0]))
            writer.writeheader()
            writer.writerows(own or rows())
        self.data = self.prepared(**settings)

    def prepared(self, **settings: Any) -> Artifact:
        """The data set, made by the step `prepare`."""
        source: dict[str, Any] = {
            "kind": "csv",
            "path": "rows.csv",
            "prompt": "message",
            "answer": "category",
            "group": "customer",
        }
        source["media"] = "keep"
        told = {"source": {**source, **self.source}, "split": {"test": 0.2}, **settings}
        step = Prepare(**told)
        work = self._work({}, [])
        prepare(step.source, step.ops, step.split, work, PrepareOptions(task=step.task))
        return self._artifact(step, work, {})

    @cached_property
    def train(self) -> SplitRows:
        return SplitRows.read(self.data, ["train"], self.folder / "train.arrow")

    @property
    def train_rows(self) -> int:
        return DatasetSummary.read(self.data).rows["train"]

    def around(self) -> AugmentContext:
        lm = open_lm(self.model, self.folder / "asked") if self.model is not None else None
        return AugmentContext(recipe_dir=self.folder, train=self.train, lm=lm, read_media=MediaReader(self.data).read)

    def wishes(self, kind: str, number: int = 24, seed: int = 7) -> list[AugmentRequest]:
        return [AugmentRequest(row, 0, seed_of(seed, kind, row.id, 0)) for row in list(self.train.rows())[:number]]

    def augment(
        self,
        augmenters: Sequence[Any],
        seed: int = 7,
        data: Artifact | None = None,
        **settings: Any,
    ) -> Made:
        """One making of the step; the model is named when an augmenter asks one."""
        said: list[RunEvent] = []
        asks = any(Augmenter.parse(one).needs_model() for one in augmenters) or settings.pop("model", None)
        model = self.model if asks else None
        named = {"model": "model"} if asks else {}
        step = Augment(data="data", augmenters=tuple(augmenters), **named, **settings)
        inputs = {"data": data or self.data, **({"model": model} if model is not None else {})}
        work = self._work(inputs, said, seed)
        step.make(work)
        return Made(self._artifact(step, work, inputs), said)

    def _work(self, inputs: dict[str, Artifact], said: list[RunEvent], seed: int = 7) -> StepContext:
        self.made += 1
        folder, scratch = self.folder / f"out{self.made}", self.folder / f"scratch{self.made}"
        folder.mkdir()
        scratch.mkdir(exist_ok=True)
        events = RunEventEmitter(said.append).of("more")
        return StepContext(
            name="more", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=self.folder, seed=seed, events=events
        )

    def _artifact(self, step: Any, work: StepContext, inputs: dict[str, Artifact]) -> Artifact:
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
