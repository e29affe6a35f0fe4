"""Everything a report says, as one frozen value: `collect` fills it from artifacts, `render` turns it into a page.

Each part is optional: a section of the report appears when its facts are there.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.core.messages import gettext_noop
from luthier.eval.human.results import HumanEvalSummary
from luthier.eval.report.facts.data import DataFacts, ValidationFacts
from luthier.eval.report.facts.explanation import ExplanationFacts, InfluenceFacts, ModelExplanationFacts
from luthier.eval.report.facts.fact import Fact
from luthier.eval.report.facts.models import EvaluationFacts, ModelRunFacts
from luthier.eval.report.facts.search import SearchFacts
from luthier.eval.report.facts.tuning import TuningFacts
from luthier.eval.report.formatting import verdict_sentence

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class RuleFacts(Fact):
    """One rule of a gate and how it came out."""

    rule: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    against: float | None = None
    more_rows: int | None = None
    why: str = ""


class GateFacts(Fact):
    """A gate: its verdict and its rules."""

    name: str
    verdict: Verdict
    rules: tuple[RuleFacts, ...] = ()


class HumanEvalFacts(Fact):
    """The report's facts of a human evaluation."""

    name: str
    opinion: HumanEvalSummary


class CostFact(Fact):
    """What a step was predicted to cost, and what it did cost."""

    step: str
    predicted_seconds: float | None = None
    """What was expected when the step began."""
    planned_seconds: float | None = None
    """What the plan said before its inputs were made, where that was far from it."""
    seconds: float | None = None
    predicted_peak_bytes: int | None = None
    planned_peak_bytes: int | None = None
    peak_bytes: int | None = None
    predicted_tokens: int | None = None
    tokens: int | None = None
    how: str = ""
    """How the prediction was made."""


class ArtifactFact(Fact):
    """An artifact behind the report."""

    step: str
    kind: str
    makes: str
    digest: str
    code: str = ""
    files: int = 0
    size: int = 0


class ProvenanceFacts(Fact):
    """What is needed to check the report and to make it again."""

    recipe: str = ""
    """The recipe's text."""
    seed: int | None = None
    artifacts: tuple[ArtifactFact, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str] = Field(default_factory=dict)
    licences: dict[str, str] = Field(default_factory=dict)
    commands: tuple[str, ...] = ()


class ReportFacts(Fact):
    """All that a report says. The first evaluation answers the question; others stand beside it."""

    title: str
    created: str
    """When the report was made, as it shall be printed."""
    evaluations: tuple[EvaluationFacts, ...] = ()
    gates: tuple[GateFacts, ...] = ()
    validations: tuple[ValidationFacts, ...] = ()
    people: tuple[HumanEvalFacts, ...] = ()
    runs: tuple[ModelRunFacts, ...] = ()
    """Evaluations side by side, when there are several."""
    data: tuple[DataFacts, ...] = ()
    tunings: tuple[TuningFacts, ...] = ()
    searches: tuple[SearchFacts, ...] = ()
    explanations: tuple[ExplanationFacts, ...] = ()
    influences: tuple[InfluenceFacts, ...] = ()
    model_explanations: tuple[ModelExplanationFacts, ...] = ()
    """What tuning changed, and what helps to decide with a classifier."""
    costs: tuple[CostFact, ...] = ()
    provenance: ProvenanceFacts = ProvenanceFacts()

    @property
    def verdict_sentence(self) -> str:
        """The answer in plain words: is the tuned model better, by how much, how sure."""
        if self.evaluations:
            return verdict_sentence(self.evaluations[0])
        if self.searches:
            return self.searches[0].record.verdict.sentence
        return self.data_sentence or gettext_noop("Nothing has been evaluated yet.")

    @property
    def privacy_sentence(self) -> str:
        """What private trainings promise; empty where there is none."""
        promises = [f"{tuning.name}: {tuning.privacy}" for tuning in self.tunings if tuning.privacy]
        return f"Differentially private: {'; '.join(promises)}." if promises else ""

    @property
    def data_sentence(self) -> str:
        """Whether the data are fit to train on; empty when nobody looked."""
        return self.validations[0].sentence if self.validations else ""

    def as_json(self) -> dict[str, Any]:
        """The facts as plain data, with the sentence that opens the page."""
        return {"verdict_sentence": self.verdict_sentence, **self.model_dump(mode="json")}
