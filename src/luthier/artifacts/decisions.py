"""What helps to decide with a classifier: the smallest edits that flip a label, rules that stand for it, label sets.

`counterfactuals.json` and `counterfactuals.jsonl` (every row), `surrogate.json`, and `conformal.json` with
`label_sets.jsonl` (every row that was measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.explanation import MeasureOverRows
from luthier.artifacts.model_explanation import FrozenRecord, ModelExplanationRecord
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json

COUNTERFACTUALS, LABEL_SETS = "counterfactuals.jsonl", "label_sets.jsonl"
ConformalScore = Literal["lac", "aps", "raps"]


class CounterfactualEdit(FrozenRecord):
    """A word that is taken away or replaced."""

    message: int
    """Number of the message from 0."""
    start: int
    end: int
    """Characters of the message's text."""
    before: str
    after: str
    """Empty where the word is taken away."""
    label_without: str
    """The label when all other edits are made and this one is not."""


class CounterfactualRecord(FrozenRecord):
    """The edits after which a model gives a text another label."""

    row: str
    text: str
    label: str
    probability: float
    """Of the label before the edits."""
    flipped_to: str
    """The label after them; empty where no edits within the limits flip it."""
    probability_after: float | None = None
    """Of the label that it is flipped to."""
    edits: tuple[CounterfactualEdit, ...] = ()
    edited: str = ""
    """The text after the edits."""
    minimal: bool = False
    """Whether the label stays as it was when any one edit is left out; each was tried."""
    words: int
    """Words that could be edited."""
    texts_read: int
    """Variants of the text that the model read."""


class CounterfactualSummary(ModelExplanationRecord):
    """How little it takes to flip a model's labels: `counterfactuals.json`."""

    kind: ClassVar[str] = "counterfactuals"
    known_measures: ClassVar[tuple[str, ...]] = ("flipped", "edits", "share")

    most_edits: int
    counterfactuals: tuple[CounterfactualRecord, ...] = ()
    """Some rows, those with the fewest edits first."""
    words: dict[str, int] = Field(default_factory=dict)
    """The words whose edits flip the most rows, and how many."""
    flips: dict[str, int] = Field(default_factory=dict)
    """How many rows went from one label to another, as `billing → delivery`."""


class DecisionRule(FrozenRecord):
    """Words that a text has or lacks, and the label that the model then gives it."""

    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    label: str
    trained_rows: int
    """Rows from which it was learnt that it holds for."""
    trained_share: float
    """The share of these to which the model gives the label."""
    rows: int
    """Held-out rows that it holds for."""
    fidelity: MeasureOverRows | None = None
    """The share of these to which the model gives the label; None without any."""

    @property
    def condition(self) -> str:
        """The rule's condition in words."""
        has = [f"has “{word}”" for word in self.has]
        return " and ".join([*has, *(f"lacks “{word}”" for word in self.lacks)]) or "always"


class SurrogateSummary(ModelExplanationRecord):
    """Rules that stand for a classifier: `surrogate.json`."""

    kind: ClassVar[str] = "surrogate"
    known_measures: ClassVar[tuple[str, ...]] = ("fidelity", "coverage", "overall", "gain")

    trained_rows: int
    least_share: float
    """A rule counts where the model gives its label to at least this share of the rows that it was learnt from."""
    rules: tuple[DecisionRule, ...]
    """Those that count, by how many held-out rows they hold for."""
    others: tuple[DecisionRule, ...] = ()
    """Parts of the data where no rule is sure."""
    majority: str
    """The model's most frequent label."""


class ConformalThreshold(FrozenRecord):
    """From which score on a label is left out of the set."""

    label: str = ""
    """Empty: for all labels."""
    value: float | None
    """None: never left out, because there are too few rows to calibrate with."""
    rows: int
    """Rows that it was calibrated with."""


class ClassCoverage(FrozenRecord):
    """How often the sets of rows of one class hold it."""

    label: str
    coverage: MeasureOverRows
    size: float
    """Labels in their sets on average."""


class LabelSet(FrozenRecord):
    """The labels that a row may have."""

    row: str
    labels: tuple[str, ...]
    reference: str


class ConformalSummary(ModelExplanationRecord):
    """Label sets with a promised coverage: `conformal.json`. It calibrates further texts, too."""

    kind: ClassVar[str] = "conformal"
    known_measures: ClassVar[tuple[str, ...]] = (
        "coverage", "size", "single", "single_accuracy", "accuracy", "worst_class",
    )  # fmt: skip

    labels: tuple[str, ...]
    score: ConformalScore
    level: float
    """The coverage that is promised."""
    by_class: bool
    """Whether it is promised for each class (Mondrian), not only over all rows."""
    penalty: float = 0.0
    """Of RAPS: what each label beyond `free_labels` adds to the score."""
    free_labels: int = 0
    thresholds: tuple[ConformalThreshold, ...]
    expected_low: float
    expected_high: float
    """Where the true coverage lies with 90 % probability, given how many rows were calibrated with."""
    classes: tuple[ClassCoverage, ...] = ()
    sizes: dict[int, int] = Field(default_factory=dict)
    """How many rows have so many labels in their set."""
    uncertain: tuple[LabelSet, ...] = ()
    """Some rows with more than one label, or none."""


def write_records(folder: Path, name: str, records: Iterable[FrozenRecord]) -> None:
    """Write one record a line into a file of a folder."""
    lines = "".join(f"{canonical_json(record.model_dump(mode='json'))}\n" for record in records)
    write_atomically(folder / name, lines.encode())
