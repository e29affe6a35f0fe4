"""Scorers over the answers of an evaluation: columns that a judge, an encoder or a process adds to every reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.component import members
from luthier.core.scorer import Column, Desk, Scored, Scorer
from luthier.core.step import Work
from luthier.eval.contestant import Contestant
from luthier.eval.judged import JUDGED
from luthier.eval.rows import Task
from luthier.metrics.metric import Metric
from luthier.text.messages import question_of


def unread(metrics: Sequence[Metric] | None, scorers: Sequence[Scorer], judged: Sequence[str] = ()) -> str:
    """Why metrics and scorers do not go together; empty when they do. `judged`: what a reward model writes."""
    written = {*judged, *(name for scorer in scorers for name in scorer.writes)}
    for metric in metrics or ():
        if lacking := [name for name in metric.scored if name not in written]:
            able = [kind for kind, other in sorted(members(Scorer).items()) if set(lacking) & set(other.writes)]
            wanted = f"; name one in `scorers`: {', '.join(able)}" if able else ""
            wanted = "; name the step that makes a `reward_model`" if lacking[0] in JUDGED else wanted
            return f"{metric.kind} reads {lacking[0]!r}, which no scorer writes{wanted}"
    read = {name for metric in metrics or members(Metric).values() for name in metric.scored}
    idle = [scorer.kind for scorer in scorers if not read & set(scorer.writes)]
    if judged and not read & set(judged):
        return "no metric reads what the reward_model says; name `reward` or `reward_wins`, or take it out"
    return f"no metric reads what the scorer {idle[0]} writes; name such a metric, or take it out" if idle else ""


def reading(scorers: Sequence[Scorer], judged: Sequence[str] = ()) -> tuple[Metric, ...]:
    """The metrics, with their defaults, that read what scorers, and a reward model, write."""
    written = {*judged, *(name for scorer in scorers for name in scorer.writes)}
    able = {kind: metric for kind, metric in sorted(members(Metric).items()) if metric.scored}
    return tuple(
        metric.model_validate({"kind": kind})
        for kind, metric in able.items()
        if set(metric.scored) <= written and kind != "judge_consistency"
    )


def with_columns(models: Sequence[Contestant], scorers: Sequence[Scorer], task: Task, work: Work) -> list[Contestant]:
    """The same models, each reply with the numbers that scorers gave it."""
    if not scorers:
        return list(models)
    kept = work.scratch / "scorers"
    kept.mkdir(exist_ok=True)
    model = work.inputs["model"]
    desk = Desk(base=work.base, kept=kept, say=work.events.note, model=lambda name: _folder(name, model, work))
    return [_scored(one, scorers, task, desk) for one in models]


def _scored(model: Contestant, scorers: Sequence[Scorer], task: Task, desk: Desk) -> Contestant:
    rows = [
        Scored(question=question_of(example), prediction=reply.prediction, references=(reference,))
        for example, reply, reference in zip(task.examples, model.replies, task.references, strict=True)
    ]
    columns: dict[str, Column] = {}
    for scorer in scorers:
        columns |= scorer.columns(rows, desk)
    replies = [
        replace(reply, columns={name: column[row] for name, column in columns.items()})
        for row, reply in enumerate(model.replies)
    ]
    return replace(model, replies=replies)


def _folder(name: str, model: Artifact, work: Work) -> Path:
    """The model that tuning began with, by its name; else any that lies here as it was published."""
    from luthier.models.catalog import resolve
    from luthier.models.load import base_folder, is_endpoint, name_of, origin_artifact

    if not is_endpoint(model) and name in ("base", name_of(origin_artifact(model))):
        return base_folder(origin_artifact(model))
    return resolve(name, work.base).in_place(work.base, work.events.note)
