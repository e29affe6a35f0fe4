"""Facts about explanations in a report: the methods over all rows, and some rows explained."""

from __future__ import annotations

from luthier.artifacts.explanation import ExplanationRecord, ExplanationSummary
from luthier.artifacts.explanation_kinds import AnyModelExplanation
from luthier.artifacts.influence import InfluenceSummary
from luthier.eval.report.facts.fact import Fact


class HeatUnit(Fact):
    """A unit as it is drawn."""

    text: str
    role: str
    """The message's role where the unit is the first of its message, else empty."""
    score: float
    heat: float
    """Its share of the strongest score of the row."""
    rank: int = 0
    """1 for the strongest, up to 5; 0 for the others."""


class ExplainedRow(Fact):
    """One row explained."""

    record: ExplanationRecord
    units: tuple[HeatUnit, ...]


class ExplanationFacts(Fact):
    """A step that explained rows."""

    name: str
    summary: ExplanationSummary
    rows: tuple[ExplainedRow, ...] = ()
    """The first rows, by the best method."""


class InfluenceFacts(Fact):
    """A step that found which training rows taught an answer."""

    name: str
    summary: InfluenceSummary


class ModelExplanationFacts(Fact):
    """A step that measured a whole model: what tuning changed, or what helps to decide with it."""

    name: str
    kind: str
    record: AnyModelExplanation
