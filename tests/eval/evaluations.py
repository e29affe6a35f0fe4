"""Artifacts to evaluate: a small data set, a tiny base model, one tuned from it; and evaluations made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.core.artifact import Artifact, Manifest
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import Step, StepContext
from luthier.core.store import Store
from luthier.eval.evaluator import ModelResult
from luthier.eval.predictions import write_predictions
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.task import Reply, read_held_out_task
from tiny_models import tickets, tiny_model

CHANNELS = ("mail", "web", "phone")


def finish(
    store: Store,
    digest: str,
    kind: str,
    makes: str,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
) -> Artifact:
    """Turn what was written into an artifact."""
    manifest = Manifest(
        digest=digest,
        kind=kind,
        makes=makes,
        settings=dict(settings or {}),
        inputs=dict(inputs),
        reads={},
        code="",
        seed=0,
        files=[],
    )
    return store.finish(manifest, {})


def example(text: str, answer: str, label: str | None, row: int, **meta: Any) -> Example:
    """One question with its answer."""
    messages = (
        Message(role="system", content="Sort the ticket: billing, delivery or account."),
        Message(role="user", content=text),
        Message(role="assistant", content=answer),
    )
    origin = ExampleOrigin(source="csv", file="tickets.csv", line=row + 2)
    kind = "label" if label else "chat"
    return Example(
        id=example_id(messages, label, {}, row), origin=origin, kind=kind, messages=messages, label=label, meta=meta
    )


def label_examples(count: int = 90) -> list[Example]:
    """Tickets with their classes."""
    return [
        example(row["message"], row["category"], row["category"], number, channel=CHANNELS[number % 3])
        for number, row in enumerate(tickets(count))
    ]


def text_examples(count: int = 40) -> list[Example]:
    """Tickets with a reply that repeats them."""
    return [
        example(row["message"], f"You wrote: {row['message']}", None, number)
        for number, row in enumerate(tickets(count))
    ]


def dataset(store: Store, train: Sequence[Example], test: Sequence[Example]) -> Artifact:
    """A data set's artifact in the layout that `prepare` writes."""
    import polars as pl

    digest = digest_of([[one.model_dump(mode="json") for one in rows] for rows in (train, test)])
    if store.has(digest):
        return store.open(digest)
    folder, _ = store.begin(digest)
    (folder / "examples").mkdir()
    for split, rows in (("train", train), ("test", test)):
        frame = pl.DataFrame([_record(one) for one in rows], schema_overrides={"group": pl.String, "label": pl.String})
        frame.write_parquet(folder / "examples" / f"{split}.parquet")
    labels = sorted({one.label for one in (*train, *test) if one.label})
    summary = {
        "rows_in": len(train) + len(test),
        "rows": {"train": len(train), "test": len(test)},
        "dropped": {},
        "edited": {},
        "task": "label" if labels else "text",
        "labels": labels,
        "sources": [],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return finish(store, digest, "prepare", "dataset", {})


def _record(one: Example) -> dict[str, Any]:
    messages = [message.model_dump(mode="json", exclude_defaults=True) for message in one.messages]
    return {
        "id": one.id,
        "source": one.origin.source,
        "file": one.origin.file,
        "line": one.origin.line,
        "kind": one.kind,
        "messages": json.dumps(messages),
        "label": one.label,
        "tools": "[]",
        "meta": json.dumps(one.meta),
        "group": None,
    }


def base_model(store: Store) -> Artifact:
    """The tiny model as a base artifact."""
    digest = digest_of("tiny base")
    folder, _ = store.begin(digest)
    tiny_model(folder)
    (folder / "model.json").write_text(json.dumps({"name": "tiny", "parameters": 50_000}))
    return finish(store, digest, "base", "model", {})


def tuned_model(store: Store, base: Artifact, learnt: Sequence[str] = ()) -> Artifact:
    """Another tiny model, said to be tuned from the base on some rows."""
    import polars as pl

    digest = digest_of(["tiny tuned", base.digest, list(learnt)])
    folder, _ = store.begin(digest)
    tiny_model(folder, seed=1)
    (folder / "training.json").write_text(json.dumps({"technique": "full"}))
    frame = pl.DataFrame({"id": list(learnt), "seen": [1] * len(learnt)}, schema={"id": pl.String, "seen": pl.Int64})
    frame.write_parquet(folder / "training_examples.parquet")
    return finish(store, digest, "tune", "model", {"model": base.digest})


def work_of(
    store: Store,
    step: Step,
    inputs: Mapping[str, Artifact],
    heard: list[RunEvent] | None = None,
    *,
    seed: int = 7,
    more: Any = None,
) -> tuple[str, StepContext]:
    """The digest of what a step makes from its inputs (and `more`), and the work that it is given."""
    digests = {field: artifact.digest for field, artifact in inputs.items()}
    digest = digest_of([step.recipe_digest(digests, {}, seed), more])
    folder, scratch = store.begin(digest)
    events = RunEventEmitter((heard if heard is not None else []).append).of(step.kind)
    return digest, StepContext(
        name="report", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=Path(), seed=seed, events=events
    )


def made(store: Store, step: Step, inputs: Mapping[str, Artifact], heard: list[RunEvent] | None = None) -> Artifact:
    """The artifact that a step makes, as a run would make it."""
    digest, work = work_of(store, step, inputs, heard)
    step.make(work)
    digests = {field: artifact.digest for field, artifact in inputs.items()}
    return finish(store, digest, step.kind, step.makes, digests, step.settings())


def evaluation(store: Store, shares: Mapping[str, float], rows: int = 90, **settings: Any) -> Artifact:
    """An evaluation of stored predictions: each model is right on the given share of the rows."""
    examples = label_examples(rows)
    data = dataset(store, examples[:10], examples)
    step = Evaluate(data="data", **settings)
    task = read_held_out_task(data, "test", None)
    models = []
    for number, (name, share) in enumerate(shares.items()):
        role = "tuned" if name == "tuned" else "base" if name == "base" else "plain"
        replies = [
            _reply(one.label or "", task.labels, (row * 37 + number) % 100 < share * 100)
            for row, one in enumerate(task.examples)
        ]
        models.append(
            ModelResult(name=name, title=f"the {name} model", role=role, replies=replies, digest=f"{name:0>32}")
        )
    digest, work = work_of(store, step, {"data": data}, more=dict(shares))
    if store.has(digest):
        return store.open(digest)
    write_predictions(work.folder / "predictions.parquet", task, {model.name: model.replies for model in models})
    from luthier.eval.defaults import choose_default_metrics

    step.write(task, step.metrics or choose_default_metrics(task), models, work)
    return finish(store, digest, "evaluate", "evaluation", {"data": data.digest}, step.settings())


def _reply(real: str, labels: Sequence[str], right: bool) -> Reply:
    said = real if right else next(label for label in labels if label != real)
    return Reply(prediction=said, scores={label: 0.0 if label == said else -2.0 for label in labels})
