"""Which training rows taught an answer: `influence.json` and `influence.parquet`.

`luthier.tune.influence` writes them; reports, the command line and `luthier new --from explain` read them. The rows
that hurt are a finding as well (`findings.json`, `rows.parquet`), with what mends it. A score is a foreseen change in
nats: how far the mean loss of what is asked would rise had the row weighed nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.files import json_bytes, write_atomically

INFLUENCE, SCORES = "influence.json", "influence.parquet"
HARMFUL = "harmful_rows"
"""The name of the finding about rows that hurt."""
NOT_VERIFIED = "not verified"


class _Plain(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )


class EstimatedNumber(_Plain):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class MethodInfluence(_Plain):
    """What one method came to."""

    method: str
    engine: str
    """How rows were read; empty for a method with a way of its own."""
    lds: EstimatedNumber | None = None
    """Linear datamodeling score: Spearman's correlation between foreseen and retrained losses without random halves of
    the rows; None where nothing was retrained."""
    notes: tuple[str, ...] = ()


class RowRemoval(_Plain):
    """Some rows left out and the model retrained."""

    what: Literal["proponents", "opponents"]
    rows: int
    foreseen: float
    """By how many nats the loss was to rise."""
    change: float
    """By how many it rose."""
    random: EstimatedNumber
    """By how many it rose without as many random rows: mean, lowest and highest."""


class InfluenceVerification(_Plain):
    """How well the scores foresee what retraining without rows does."""

    retrainings: int
    subsets: int
    """Of them, with random halves of the rows."""
    loss: float
    """The mean loss of what is asked, of the whole training."""
    removals: tuple[RowRemoval, ...]
    """By the best method."""


class InfluentialRow(_Plain):
    """A training row with what is known of it."""

    id: str
    score: float
    split: str = "train"
    file: str | None
    line: int | None
    label: str | None = None
    text: str
    """The beginning of its last question."""
    answer: str
    edits: tuple[str, ...] = ()
    """Operators that changed it."""
    twins: tuple[str, ...] = ()
    """Where rows stand that repeat it and were left out."""
    doubted: bool = False
    """Whether a validation doubts its label."""
    p: float | None = None
    """Of a row that hurts: the adjusted p value of its harm; None for rows that were not tested."""


class LabelDoubtAgreement(_Plain):
    """How far rows that hurt are those whose labels confident learning doubts."""

    harmful: int
    doubted: int
    both: int
    expected: float
    """Rows that would be both by chance."""
    p: float
    """How likely so many or more would be both by chance (Fisher's exact test, one-sided)."""


class HarmSignificance(_Plain):
    """Whether rows that hurt do so by more than the chance of which rows were asked about.

    The sign of what each question row adds to a row's score is flipped at random (one-sided), and p values are adjusted
    over all training rows by Benjamini and Hochberg.
    """

    harmful: int
    """Rows whose score is far below that of the others, and below zero."""
    significant: int = 0
    """Of these, rows whose harm is more than chance."""
    question_rows: int
    """Rows that were asked about."""
    level: float
    """The share of the significant rows that may be there by chance."""
    untested: str = ""
    """Why nothing was tested."""

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        if self.untested:
            return f"Not tested against chance: {self.untested}."
        if not self.harmful:
            return "No row is far below the others."
        return (
            f"Of {self.harmful} rows far below the others, {self.significant} hurt by more than chance over the "
            f"{self.question_rows} rows asked about (sign flips; Benjamini and Hochberg over all training rows at "
            f"{self.level:.0%})."
        )


class InfluenceSummary(_Plain):
    """What a step `influence` says: `influence.json`."""

    model: str
    digest: str
    query: str
    """What was asked, in words."""
    query_rows: int
    loss: float
    """The mean loss of what was asked, at the last kept state."""
    rows: int
    """Training rows that have a score."""
    methods: tuple[MethodInfluence, ...]
    best: str
    """The method whose rows are shown: the one with the highest LDS, else the first."""
    verification: InfluenceVerification | None = None
    proponents: tuple[InfluentialRow, ...]
    opponents: tuple[InfluentialRow, ...]
    agreement: LabelDoubtAgreement | None = None
    """None where no validation was named."""
    significance: HarmSignificance | None = None
    """None where the best method's scores are likenesses, by which no row hurts."""
    sentence: str

    @property
    def verified(self) -> str:
        """How far the scores were verified, in a few words."""
        if self.verification is None:
            return NOT_VERIFIED
        best = next(entry for entry in self.methods if entry.method == self.best)
        assert best.lds is not None, "what was verified has a score"
        return f"LDS {best.lds.value:.2f} ({best.lds.low:.2f} to {best.lds.high:.2f})"

    @classmethod
    def read(cls, artifact: Artifact) -> InfluenceSummary:
        """That of a step's artifact."""
        return cls.model_validate(artifact.read_json(INFLUENCE))

    def write(self, folder: Path) -> None:
        """Write `influence.json` into a folder."""
        write_atomically(folder / INFLUENCE, json_bytes(self.model_dump(mode="json")))
