"""Facts about the data of a report: what became of every row, and the findings of its validation."""

from __future__ import annotations

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.eval.report.facts.fact import Fact


class SourceFacts(Fact):
    """Where rows came from."""

    name: str
    files: tuple[str, ...] = ()
    rows: int | None = None
    digest: str = ""
    licence: str = ""


class EditFact(Fact):
    """One edit of an operator: where, why, and the text before and after."""

    operator: str
    reason: str
    location: str
    before: str
    after: str


class LeftOutRow(Fact):
    """One row that was left out: why, where it stands, how it begins, and where the row stands that it repeats."""

    reason: str
    location: str
    text: str
    twin: str = ""


class LabelCount(Fact):
    """How many rows bear a label, by split."""

    label: str
    rows: dict[str, int]


class OperatorCounts(Fact):
    """What an operator counted, by what it found and where."""

    operator: str
    locations: tuple[str, ...]
    rows: dict[str, dict[str, int]]


class OperatorAccuracy(Fact):
    """How right an operator was about one kind on a labelled sample; rates with their intervals."""

    operator: str
    kind: str
    expected: int
    found: int
    recall: tuple[float, float, float] | None = None
    precision: tuple[float, float, float] | None = None


class DataFacts(Fact):
    """The report's facts of a data set: what became of every source row."""

    name: str
    rows_in: int
    """Rows that were read, and rows that were made here."""
    splits: dict[str, int]
    made: dict[str, int] = Field(default_factory=dict)
    """Of them, rows that were made out of others, by augmenter."""
    dropped: dict[str, int] = Field(default_factory=dict)
    left_out: tuple[LeftOutRow, ...] = ()
    """The first dropped rows of each reason."""
    edited: dict[str, int] = Field(default_factory=dict)
    """Edits by operator."""
    labels: tuple[LabelCount, ...] = ()
    counted: tuple[OperatorCounts, ...] = ()
    rightness: tuple[OperatorAccuracy, ...] = ()
    edits: tuple[EditFact, ...] = ()
    sources: tuple[SourceFacts, ...] = ()


class FindingRow(Fact):
    """One row that a finding is about."""

    id: str
    location: str
    text: str
    answer: str
    note: str = ""


class FindingFacts(Fact):
    """One finding about the data, with its first rows."""

    finding: Finding
    shown: tuple[FindingRow, ...] = ()


class ValidationFacts(Fact):
    """The report's facts of a data validation: checks and their findings."""

    name: str
    sentence: str
    """In plain words, whether the data are fit to train on."""
    rows: int
    looked_at: int
    findings: tuple[FindingFacts, ...]
    """The worst first."""
    skipped: dict[str, str] = Field(default_factory=dict)
    """Checks that could not be made, with the reason."""

    def worth_mending(self) -> list[FindingFacts]:
        """Findings that are serious or a warning."""
        return [finding for finding in self.findings if finding.finding.severity != "info"]

    def in_order(self) -> list[FindingFacts]:
        """Findings with nothing to mend."""
        return [finding for finding in self.findings if finding.finding.severity == "info"]
