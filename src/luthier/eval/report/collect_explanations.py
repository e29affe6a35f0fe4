"""Collect the facts of a report on explanations, from their `explain.json` and `explanations.jsonl`."""

from __future__ import annotations

from itertools import islice

from luthier.artifacts.explanation import ExplanationRecord, ExplanationSummary, read_explanations
from luthier.artifacts.explanation_kinds import read_model_explanation
from luthier.core.artifact import Artifact
from luthier.eval.report.facts.explanation import ExplainedRow, ExplanationFacts, HeatUnit, ModelExplanationFacts

ROWS = 8
"""Rows that are shown at most."""
_RANKED = 5


def explanation_facts(name: str, artifact: Artifact) -> ExplanationFacts:
    """What the report says of one step that explained rows."""
    summary = ExplanationSummary.read(artifact)
    best = (record for record in read_explanations(artifact) if record.method == summary.best)
    rows = tuple(ExplainedRow(record=record, units=_heat(record)) for record in islice(best, ROWS))
    return ExplanationFacts(name=name, summary=summary, rows=rows)


def model_explanation_facts(name: str, artifact: Artifact) -> ModelExplanationFacts | None:
    """What the report says of one step that measured a whole model; None for one that explained rows."""
    record = read_model_explanation(artifact)
    return None if record is None else ModelExplanationFacts(name=name, kind=record.kind, record=record)


def _heat(record: ExplanationRecord) -> tuple[HeatUnit, ...]:
    """The units of text; patches are drawn on their pictures."""
    strongest = max((abs(unit.score) for unit in record.units), default=0.0) or 1.0
    order = sorted(range(len(record.units)), key=lambda at: -abs(record.units[at].score))
    ranks = {at: rank for rank, at in enumerate(order[:_RANKED], start=1)}
    texts = [at for at, unit in enumerate(record.units) if unit.patch is None]
    messages = [None, *(record.units[at].message for at in texts)]
    return tuple(
        HeatUnit(
            text=unit.text,
            role=unit.role if before != unit.message else "",
            score=unit.score,
            heat=abs(unit.score) / strongest,
            rank=ranks.get(at, 0),
        )
        for before, at, unit in ((before, at, record.units[at]) for before, at in zip(messages, texts, strict=False))
    )
