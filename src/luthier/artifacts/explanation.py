"""Explanations of answers, in the one shape that reports, model cards, lineage and the command line read.

`explanations.jsonl` holds one `ExplanationRecord` a line, and `explain.json` what a step `explain` says of the methods
over all rows. `luthier.explain` writes them. All scores are in the unit of the target: natural log-probability for an
answer, a class or a contrast, and the reward's own for a reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.files import json_bytes, write_atomically
from luthier.core.hashing import canonical_json

SUMMARY, RECORDS = "explain.json", "explanations.jsonl"
FORMAT: Literal[1] = 1
UnitKind = Literal["turns", "documents", "shots", "sentences", "words", "tokens", "patches", "seconds"]
PartKind = Literal["words", "tokens"]
TargetKind = Literal["answer", "class", "reward", "contrast", "likeness"]
Verdict = Literal["better than random", "not clearly better than random", "no better than random", "too few units"]
MEASURES = ("comprehensiveness", "sufficiency", "rank_agreement", "gain_over_random")
"""What a step measures of each method over rows; a gate's rule names one, of the best method or of `METHOD.MEASURE`."""


class _Frozen(BaseModel):
    """Frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )


class PatchRegion(_Frozen):
    """A block of a picture, in shares of the picture's width and height; beyond 0 and 1 where a model pads it. Of a
    sound, a stretch of its time: left and right in shares of its length, top and bottom 0 and 1."""

    picture: int
    """Number of the picture or sound in the conversation, from 0."""
    left: float
    top: float
    right: float
    bottom: float


class ExplainedPicture(_Frozen):
    """A picture of the conversation, small enough to be shown on a page; of a sound, its waveform."""

    message: int
    """Number of the message that it stands in."""
    digest: str
    width: int
    """Pixels of the picture itself."""
    height: int
    url: str
    """A copy of it as a `data:` URL; empty where it must not be shown."""
    seconds: float | None = None
    """How long a sound is; None for a picture."""


class ExplainedUnit(_Frozen):
    """A part of the prompt that counts as one: its place and its score."""

    text: str
    message: int
    """Number of the message from 0, with the model's own prompt in front; -1 for the tools on offer."""
    role: str
    start: int
    end: int
    """Characters of the message's text."""
    tokens: int
    """How many tokens it has; 0 where the model's tokenizer is not here."""
    score: float
    """How much it speaks for the target; below zero: against."""
    parts: tuple[ExplainedUnit, ...] = ()
    """Its words or tokens with their scores, where it is among the strongest and finer units were wanted."""
    patch: PatchRegion | None = None
    """The block that it is, for a unit of a picture."""


class ExplanationTarget(_Frozen):
    """What is explained."""

    kind: TargetKind
    """`likeness` is how alike an endpoint's answers are with and without units, where no probability can be had."""
    text: str
    """The answer, or the name of the class; for a reward the answer that is rewarded."""
    part: str = ""
    """The part of the answer that counts; empty: all of it."""
    against: str = ""
    """For a contrast: the answer or class that it is compared with."""


class RandomOrders(_Frozen):
    """A measure over random orders of the same units."""

    mean: float
    low: float
    high: float
    """The middle 95 % of them."""


class FaithfulnessScores(_Frozen):
    """How well a ranking of units tells what the model uses, by ERASER's definitions (DeYoung et al. 2020)."""

    shares: tuple[float, ...]
    """Shares of the units, the highest scores first, that are taken away or kept alone."""
    comprehensiveness_at: tuple[float, ...]
    """By share: the probability of the target minus that without these units."""
    sufficiency_at: tuple[float, ...]
    """By share: the probability of the target minus that with these units alone."""
    comprehensiveness: float
    """The mean over the shares (AOPC); higher is better."""
    sufficiency: float
    """The mean over the shares (AOPC); lower is better."""
    random_comprehensiveness: RandomOrders
    random_sufficiency: RandomOrders
    orders: int
    """How many random orders of the same units were measured."""
    p: float
    """How often a random order has a comprehensiveness minus sufficiency as high or higher; ties count half."""
    rank_agreement: float | None = None
    """Spearman's rank correlation with leave-one-out; None where it is not defined."""
    rank_agreement_low: float | None = None
    rank_agreement_high: float | None = None
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        scores = f"comprehensiveness {self.comprehensiveness:.3f}, sufficiency {self.sufficiency:.3f}"
        floor = f"random orders {self.random_comprehensiveness.mean:.3f} and {self.random_sufficiency.mean:.3f}"
        says = {
            "better than random": "The order of the units is better than random orders",
            "not clearly better than random": "Some random orders are as good, which can be chance with so few units",
            "no better than random": "The order of the units is NOT better than random orders: do not rely on it",
            "too few units": "There are too few units to tell the order from chance: take finer units",
        }[self.verdict]
        return f"{says} ({scores}; {floor}; p {self.p:.2f} over {self.orders} orders)."


class ExplanationRecord(_Frozen):
    """One answer explained by one method."""

    format: Literal[1] = FORMAT
    row: str = ""
    """The id of the row that was explained; empty for a text."""
    model: str
    digest: str
    """The model's artifact."""
    method: str
    """The kind of the explainer."""
    settings: dict[str, Any]
    """The explainer's settings."""
    unit: UnitKind
    target: ExplanationTarget
    value: float
    """The target's value on the whole prompt."""
    without: float
    """The same with none of the units."""
    units: tuple[ExplainedUnit, ...]
    template: float | None = None
    """The sum of the scores of what the chat template wrote; None where the method gives it none."""
    gap: float | None = None
    """How far the scores are from adding up as the method promises; None for one that promises nothing."""
    texts_read: int = 0
    """How many variants of the prompt were read."""
    perturbation_only: bool = False
    """Whether the weights are not here, so that units were taken away and nothing else was possible."""
    notes: tuple[str, ...] = ()
    faithfulness: FaithfulnessScores | None = None
    part_unit: PartKind | None = None
    """What the strongest units were cut into; None: they were not."""
    part_faithfulness: FaithfulnessScores | None = None
    """That of the order of the parts and all other units."""
    pictures: tuple[ExplainedPicture, ...] = ()
    """The pictures and sounds of the conversation, in order."""

    def ranked(self) -> list[ExplainedUnit]:
        """The units, the strongest first, whatever their sign."""
        return sorted(self.units, key=lambda unit: -abs(unit.score))


class MeasureOverRows(_Frozen):
    """A mean over rows with its 95 % interval."""

    value: float
    low: float
    high: float
    rows: int


class MethodSummary(_Frozen):
    """One method over all rows."""

    method: str
    comprehensiveness: MeasureOverRows
    sufficiency: MeasureOverRows
    rank_agreement: MeasureOverRows | None = None
    gain_over_random: MeasureOverRows
    """Comprehensiveness minus sufficiency, less the mean of that over random orders of the same units."""


class MethodComparison(_Frozen):
    """Two methods on the same rows: comprehensiveness minus sufficiency of the first minus that of the second."""

    method: str
    against: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    """After Holm's correction over all pairs of methods."""
    rows: int


class ExplanationSummary(_Frozen):
    """What a step `explain` says of a model: `explain.json`."""

    model: str
    digest: str
    rows: int
    skipped: dict[str, int] = {}
    """Rows that could not be explained, by reason."""
    unit: UnitKind
    methods: tuple[MethodSummary, ...]
    """The most faithful first; `random` is among them."""
    comparisons: tuple[MethodComparison, ...]
    best: str
    """The method to use for this model."""
    sentence: str

    @classmethod
    def read(cls, artifact: Artifact) -> ExplanationSummary:
        """That of a step's artifact."""
        return cls.model_validate(artifact.read_json(SUMMARY))

    def write(self, folder: Path) -> None:
        """Write `explain.json` into a folder."""
        write_atomically(folder / SUMMARY, json_bytes(self.model_dump(mode="json")))

    def measure(self, name: str) -> MeasureOverRows | None:
        """A measure by the name that a gate's rule uses: of the best method, or of the one before the point."""
        method, _, measure = name.rpartition(".")
        method_summary = next((entry for entry in self.methods if entry.method == (method or self.best)), None)
        if method_summary is None or measure not in MEASURES:
            return None
        value: MeasureOverRows | None = getattr(method_summary, measure)
        return value


def write_explanations(folder: Path, records: Iterable[ExplanationRecord]) -> None:
    """Write `explanations.jsonl` into a folder."""
    lines = "".join(f"{canonical_json(record.model_dump(mode='json'))}\n" for record in records)
    write_atomically(folder / RECORDS, lines.encode())


def read_explanations(artifact: Artifact) -> Iterator[ExplanationRecord]:
    """The explanations of a step's artifact, in order."""
    with artifact.path(RECORDS).open(encoding="utf-8") as lines:
        for line in lines:
            yield ExplanationRecord.model_validate_json(line)
