"""Who answers in an evaluation: the tuned model, its base, and plain baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from luthier.core.artifact import Artifact
from luthier.core.step import Work
from luthier.eval.baseline import Baseline
from luthier.eval.report.facts.models import PLAIN
from luthier.eval.rows import Reply, Task

if TYPE_CHECKING:
    from luthier.core.events import StepEvents
    from luthier.eval.ask import Question
    from luthier.eval.voice import Voice
    from luthier.models.lm.cached import AnswerCache
    from luthier.text.messages import Example

Role = Literal["tuned", "base", "other", "plain"]
TUNED, BASE, AGAINST = "tuned", "base", "against"
"""The names of the model that is asked about, when it was tuned, of the model that it began with, and of a further one,
such as the one that is released."""
_TITLES: Mapping[str, str] = {TUNED: "the tuned model", AGAINST: "the compared model"}
_ROLES: Mapping[str, Role] = {TUNED: "tuned", AGAINST: "other"}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One model or baseline with its replies."""

    name: str
    title: str
    role: Role
    replies: Sequence[Reply]
    digest: str = ""
    """The model's artifact; empty for a baseline."""


def voices(models: Mapping[str, Artifact], question: Question, work: Work) -> list[Voice]:
    """Models as they can be asked, by name."""
    from luthier.eval.ask import Model
    from luthier.eval.classifier import Classifier
    from luthier.models.lm.local import ModelCache
    from luthier.models.load import is_plain

    cache, calls = ModelCache(), work.scratch / "calls"
    found: list[Voice] = []
    for name, artifact in models.items():
        title = _TITLES.get(name, "the base model")
        if is_plain(artifact):
            found.append(Classifier(artifact, name=name, title=PLAIN if name == TUNED else title))
        else:
            found.append(Model.of(artifact, question, cache, calls, name=name, title=title))
    return found


def adjusted(voices: Sequence[Voice], thresholds: Artifact | None) -> list[Voice]:
    """The same voices, the labels of the first decided by thresholds when there are any."""
    from luthier.eval.thresholds import Adjusted, Thresholds

    if thresholds is None:
        return list(voices)
    return [Adjusted(voices[0], Thresholds.of(thresholds)), *voices[1:]]


def kept(work: Work) -> AnswerCache:
    """The answers that are known already."""
    from luthier.eval.ask import answer_cache

    return answer_cache(work.kept or work.scratch / "answers")


def language_models(
    models: Mapping[str, Artifact],
    voices: Sequence[Voice],
    task: Task,
    known: AnswerCache,
    events: StepEvents,
    seconds: dict[str, float],
) -> list[Contestant]:
    """Ask each model every row that is not known; `seconds` is told how long each took."""
    from luthier.eval.ask import ask

    found = []
    for voice in voices:
        started = time.perf_counter()
        replies = ask(voice, task, known, events)
        seconds[voice.name] = time.perf_counter() - started
        role, digest = _ROLES.get(voice.name, "base"), models[voice.name].digest
        found.append(Contestant(name=voice.name, title=voice.title, role=role, replies=replies, digest=digest))
    return found


def learners(baselines: Sequence[Baseline], data: Artifact, model: Artifact) -> list[Voice]:
    """Each baseline with the rows that the tuned model learnt from."""
    from luthier.eval.voice import Plain
    from luthier.text.dataset import has_split, read_examples

    train = read_examples(data, "train") if baselines and has_split(data, "train") else []
    learnt = learnt_rows(model, train)
    return [Plain(baseline, learnt) for baseline in baselines]


def plain(voices: Sequence[Voice], task: Task, seconds: dict[str, float]) -> list[Contestant]:
    """Let each baseline learn and answer."""
    found = []
    for voice in voices:
        started = time.perf_counter()
        replies = voice.answer(task.examples, task)
        seconds[voice.name] = time.perf_counter() - started
        found.append(Contestant(name=voice.name, title=voice.title, role="plain", replies=replies))
    return found


def base_of(model: Artifact) -> Artifact | None:
    """The model that a tuned one began with, up through its whole lineage; None for a base model itself, and for one
    that began with none."""
    if "model" not in model.manifest.inputs:
        return None
    while "model" in model.manifest.inputs:
        model = model.parent("model")
    return model


def learnt_rows(model: Artifact, train: Sequence[Example]) -> list[Example]:
    """The training rows that the tuned model learnt from, so that a baseline learns from the same; else all of them."""
    if not any(entry.path == "learnt.parquet" for entry in model.manifest.files):
        return list(train)
    import polars as pl

    frame = pl.read_parquet(model.path("learnt.parquet"))
    learnt = set(frame.filter(pl.col("seen") > 0)["id"].to_list())
    return [example for example in train if example.id in learnt] or list(train)
