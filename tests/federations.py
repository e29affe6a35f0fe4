"""A tiny base model and data sets at several sites, and federations made over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.core.store import Store
from luthier.federated.steps.federate import Federate
from luthier.tune.steps.tune import Tune
from tuning import _base, _data, examples, finish, made, make_env

TRAINING: dict[str, Any] = {"batch_size": 4, "dtype": "float32", "learning_rate": 1e-2}
LORA: dict[str, Any] = {"kind": "lora", "r": 4}


@dataclass
class Sites:
    """A store with a base model and the rows of some sites."""

    store: Store
    base: Artifact
    data: dict[str, Artifact]
    heard: list[RunEvent]

    def step(self, names: Sequence[str] = ("north", "south", "west"), **settings: Any) -> Federate:
        """A federation over some of the sites, by LoRA unless settings say otherwise."""
        tune = settings.pop("bare", None) or {**TRAINING, "technique": LORA, **settings.pop("tune", {})}
        return Federate.model_validate(
            {"kind": "federate", "sites": tuple(names), "rounds": 2, "tune": tune, **settings}
        )

    def work(self, step: Federate, seed: int = 3, digest: str | None = None) -> StepContext:
        """The place where a federation is made; what an earlier try left in scratch is there."""
        folder, scratch = self.store.begin(digest or digest_of([step.settings(), seed]))
        inputs = {f"sites.{at}": self.data[name] for at, name in enumerate(step.sites)}
        return StepContext(
            name="federate",
            inputs={**inputs, "model": self.base},
            folder=folder,
            scratch=scratch,
            recipe_dir=self.store.root.parent if hasattr(self.store, "root") else folder,
            seed=seed,
            events=RunEventEmitter(self.heard.append).of("federate"),
            kept=self.store.kept,
        )

    def federate(self, step: Federate, seed: int = 3, digest: str | None = None) -> Artifact:
        """Make a federated model."""
        work = self.work(step, seed, digest)
        step.make(work)
        inputs = {name: artifact.digest for name, artifact in work.inputs.items()}
        return finish(self.store, work.digest, "federate", "model", inputs)

    def tune(self, step: Tune, name: str, seed: int = 3) -> Artifact:
        """A plain training on the rows of one site."""
        digest = digest_of([step.settings(), name, seed])
        folder, scratch = self.store.begin(digest)
        inputs = {"data": self.data[name], "model": self.base}
        work = StepContext(
            name="tune",
            inputs=inputs,
            folder=folder,
            scratch=scratch,
            recipe_dir=folder,
            seed=seed,
            kept=self.store.kept,
        )
        step.make(work)
        return finish(self.store, digest, "tune", "model", {key: value.digest for key, value in inputs.items()})

    def said(self, kind: str) -> list[str]:
        """Texts of the events of a kind."""
        return [event.text for event in self.heard if event.kind == kind]


def build_sites(root: Path, parts: dict[str, list[Example]] | None = None) -> Sites:
    """Make the base and the sites: tickets, dealt to three sites of different size unless they are given."""
    rows = examples(48)
    parts = parts or {"north": rows[:24], "south": rows[24:40], "west": rows[40:]}
    store = Store(root / "store")
    base = made(store, "base", "model", _base)
    data = {}
    for name, some in parts.items():
        digest = digest_of(["prepare", name])
        folder, _ = store.begin(digest)
        _data(folder, {"train": list(some), "validation": [], "test": list(some[:8])})
        data[name] = finish(store, digest, "prepare", "dataset", {})
    return Sites(store, base, data, [])


__all__ = ["LORA", "TRAINING", "Sites", "build_sites", "make_env", "replace"]
