"""A small honest bench for tests of tuning: a tiny base model and a data set as artifacts, and a step made on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars
import pytest
from safetensors.torch import load_file, save_file

from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.core.artifact import Artifact, Manifest
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.core.store import Store
from luthier.tune.steps.tune import Tune
from tiny_models import tickets, tiny_model

CLASSES = ["account", "billing", "delivery"]
SYSTEM = "Sort the message: billing, delivery or account. Answer with one word."


def examples(count: int = 48) -> list[Example]:
    """Tickets with their class, under one system prompt."""
    return [chat(row["message"], row["category"], line) for line, row in enumerate(tickets(count), start=2)]


def chat(question: str, answer: str, line: int = 1) -> Example:
    """One labelled question."""
    messages = (
        Message(role="system", content=SYSTEM),
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    )
    origin = ExampleOrigin(source="csv", file="tickets.csv", line=line)
    key = example_id(messages, answer, {}, line)
    return Example(id=key, origin=origin, kind="label", messages=messages, label=answer)


def pairs(count: int = 24) -> list[Example]:
    """Tickets with the right answer preferred to a wrong and longer one."""
    wrong = {"account": "delivery, I think", "billing": "account, I think", "delivery": "billing, I think"}
    return [preferring(one, wrong[str(one.label)], row=at % 3) for at, one in enumerate(examples(count))]


def preferring(example: Example, rejected: str, **meta: object) -> Example:
    """The example with an answer that was not preferred."""
    told = {"rejected": rejected, **meta}
    return example.model_copy(update={"kind": "preference", "label": None, "meta": told})


def thumbs(count: int = 24) -> list[Example]:
    """Tickets with one answer each, every second of them wrong, and a yes or no."""
    return [
        example.model_copy(
            update={
                "label": None,
                "messages": example.messages if at % 2 else (*example.messages[:-1], _answer(f"{at} is it")),
                "meta": {"label": bool(at % 2)},
            }
        )
        for at, example in enumerate(examples(count))
    ]


def _answer(text: str) -> Message:
    return Message(role="assistant", content=text)


@dataclass
class TuneEnv:
    """A store with a base model and a data set in it."""

    store: Store
    base: Artifact
    data: Artifact
    heard: list[RunEvent]

    def work(self, step: Tune, seed: int = 3, model: Artifact | None = None) -> StepContext:
        """The place where a step is made; what an earlier try left in scratch is there."""
        folder, scratch = self.store.begin(self.tune_digest(step, seed))
        events = RunEventEmitter(self.heard.append).of("tune")
        inputs = {"data": self.data, "model": model or self.base}
        if step.teacher is not None:
            inputs["teacher"] = self.teacher
        return StepContext(
            name="tune",
            inputs=inputs,
            folder=folder,
            scratch=scratch,
            recipe_dir=folder,
            seed=seed,
            events=events,
            kept=self.store.kept,
        )

    @cached_property
    def teacher(self) -> Artifact:
        """Another random model over the same vocabulary."""
        return made(self.store, "teacher", "model", lambda folder: _base(folder, seed=5))

    def tune(self, step: Tune, seed: int = 3, model: Artifact | None = None) -> Artifact:
        """Make a tuned model."""
        step.make(self.work(step, seed, model))
        inputs = {"data": self.data.digest, "model": (model or self.base).digest}
        return finish(self.store, self.tune_digest(step, seed), "tune", "model", inputs)

    def classify(self, step: Tune) -> Artifact:
        """Make a model without a base model."""
        step.make(self.work(step))
        return finish(self.store, self.tune_digest(step), "tune", "model", {"data": self.data.digest})

    def tune_digest(self, step: Tune, seed: int = 3) -> str:
        """The name of what a step makes here."""
        return digest_of([step.settings(), seed])

    def said(self, kind: str) -> list[str]:
        """Texts of the events of a kind."""
        return [event.text for event in self.heard if event.kind == kind]


def interrupted(env: TuneEnv, step: Tune, before: int = 3) -> None:
    """Begin a training and interrupt it before one of its steps (from 0)."""
    from luthier.tune.training.trainer import Trainer

    once = Trainer._step

    def dying(self: Trainer, number: int, keeper: Any) -> Any:
        if number == before:
            raise KeyboardInterrupt
        return once(self, number, keeper)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            env.tune(step)


def tune_and_resume(env: TuneEnv, step: Tune, before: int = 3) -> tuple[dict[str, str], dict[str, str]]:
    """The digests of what a training wrote, and of what one writes that goes on from the state that it had on disk
    before one of its steps (from 0), as a kill leaves it."""
    from luthier.tune.training.trainer import Trainer

    once, tried, left = Trainer._step, list[int](), dict[Path, bytes]()
    folder, scratch = env.store.begin(env.tune_digest(step))
    assert not any(folder.iterdir())

    def copying(self: Trainer, number: int, keeper: Any) -> Any:
        tried.append(number)
        if number == before and not left:
            keeper.wait()
            left.update({path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()})
        return once(self, number, keeper)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", copying)
        whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
        env.store.remove(env.tune_digest(step))
        env.store.begin(env.tune_digest(step))
        tried.clear()
        for path, content in left.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        again = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    assert 0 < tried[0] <= before, "it goes on, and does not begin anew"
    return whole, again


def assert_goes_on_from_a_trunk(env: TuneEnv, whole: Tune, rows: int, shares: tuple[float, float]) -> None:
    """A training of the larger share goes on from that of the smaller, to the bytes of one that begins at the
    beginning."""
    short, long = (whole.at_share(share, rows) for share in shares)
    alone = env.tune(long.model_copy(update={"keep_trunk": False}))
    env.tune(short)
    env.heard.clear()
    after = env.tune(long)
    assert any(text.startswith("goes on after step") for text in env.said("note"))
    one, other = ({entry.path: entry.digest for entry in made.manifest.files} for made in (alone, after))
    assert one == other


def adapted(env: TuneEnv, technique: Any) -> Any:
    """The base in fp32 under a technique, with adapters that say something."""
    import torch

    from luthier.models.load import open_folder

    model = technique.adapt(open_folder(env.base.folder, torch.float32), 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def make_env(root: Path, rows: Iterable[Example] | None = None, validation: Sequence[Example] = ()) -> TuneEnv:
    """Make the bench."""
    store = Store(root / "store")
    base = made(store, "base", "model", _base)
    data = made(
        store,
        "prepare",
        "dataset",
        lambda folder: _data(folder, {"train": list(rows or examples()), "validation": list(validation)}),
    )
    return TuneEnv(store, base, data, [])


def reopened(root: Path) -> TuneEnv:
    """The bench that another process made."""
    store = Store(root / "store")
    by_kind = {artifact.manifest.kind: artifact for artifact in map(store.open, store.digests())}
    return TuneEnv(store, by_kind["base"], by_kind["prepare"], [])


def made(store: Store, kind: str, makes: str, write: Callable[[Path], None]) -> Artifact:
    """An artifact that a function wrote."""
    digest = digest_of([kind, makes])
    folder, _ = store.begin(digest)
    write(folder)
    return finish(store, digest, kind, makes, {})


def finish(store: Store, digest: str, kind: str, makes: str, inputs: dict[str, str]) -> Artifact:
    """Turn a written folder into an artifact."""
    manifest = Manifest(
        digest=digest, kind=kind, makes=makes, settings={}, inputs=inputs, reads={}, code="", seed=0, files=[]
    )
    return store.finish(manifest, {})


def _base(folder: Path, seed: int = 0) -> None:
    """A random model with weights large enough for an adapter alone to change what it says."""
    tiny_model(folder, seed)
    state = load_file(folder / "model.safetensors")
    save_file(
        {name: 10 * value if value.ndim > 1 else value for name, value in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "model.json").write_text(json.dumps({"name": "tiny"}))


def _data(folder: Path, splits: dict[str, list[Example]]) -> None:
    (folder / "examples").mkdir()
    present = {name: rows for name, rows in splits.items() if rows}
    for name, rows in present.items():
        _table(rows).write_parquet(folder / "examples" / f"{name}.parquet")
    counts = {name: len(rows) for name, rows in present.items()}
    labels = sorted({row.label for rows in present.values() for row in rows if row.label})
    if labels and set(labels) <= set(CLASSES):
        labels = CLASSES
    summary = {
        "rows_in": sum(counts.values()),
        "rows": counts,
        "dropped": {},
        "edited": {},
        "task": "label" if labels else "text",
        "labels": labels,
        "sources": [],
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def _table(rows: list[Example]) -> polars.DataFrame:
    columns = [
        {
            "id": row.id,
            "source": row.origin.source,
            "file": row.origin.file,
            "line": row.origin.line,
            "kind": row.kind,
            "messages": json.dumps([message.model_dump(exclude_defaults=True) for message in row.messages]),
            "label": row.label,
            "tools": "[]",
            "meta": json.dumps(row.meta),
            "group": None,
        }
        for row in rows
    ]
    return polars.DataFrame(columns)
