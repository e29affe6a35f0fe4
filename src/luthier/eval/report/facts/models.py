"""Facts about models in a report: scores, paired comparisons, slices, rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.core.messages import gettext_noop
from luthier.eval.report.facts.fact import Fact, ScoreFact

ModelRole = Literal["tuned", "base", "plain", "other"]


PLAIN = gettext_noop("the plain classifier")
"""The title of a model of `technique: plain`, which an evaluation is about."""
BLIND = "blind"
"""The name in files and rules of the model that is shown grey pictures or silence (`luthier.eval.media_ablation`)."""
LOWER_IS_BETTER = frozenset(
    {"perplexity", "bits_per_byte", "fluency", "ece", "brier", "aurc", "ter", "wer", "cer", "self_bleu"}
)
"""Metrics of which a smaller value is the better one."""


class MeasureFact(Fact):
    """What a probe found for one model, such as the gap between groups, with the parts behind it."""

    score: ScoreFact
    rows: int = 0
    detail: dict[str, float] = Field(default_factory=dict)
    """Each group's own value."""
    detectable: float | None = None
    """The smallest difference from nothing that so many rows show in four runs of five."""


class ModelFacts(Fact):
    """One model (or plain baseline) and its scores on the held-out rows, by metric."""

    name: str
    """The name in the files: `tuned`, `base`, `tfidf`, `majority`, …"""
    title: str
    """The name as people say it."""
    role: ModelRole
    metrics: dict[str, ScoreFact]
    measures: dict[str, MeasureFact] = Field(default_factory=dict)
    """What probes found, by family and measure (`bias.gap`)."""

    @property
    def is_plain(self) -> bool:
        """Whether it was made by `technique: plain`."""
        return self.role == "tuned" and self.title == PLAIN


class ComparisonFact(Fact):
    """Model `a` minus model `b` on the same rows."""

    a: str
    b: str
    metric: str
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    """The same p after Holm's correction over the family of comparisons."""
    test: str = ""
    rows: int = 0
    fixed: int | None = None
    """Rows that `b` had wrong and `a` has right."""
    broken: int | None = None
    """Rows that `b` had right and `a` has wrong."""
    detectable: float | None = None
    """The smallest difference that this many rows would show in four runs of five."""
    lower_is_better: bool = False
    """Whether a difference below zero is the better one; of the known metrics it goes without saying."""

    @property
    def lower(self) -> bool:
        """Whether a difference below zero is the better one."""
        return self.lower_is_better or self.metric in LOWER_IS_BETTER


class ConfusionMatrix(Fact):
    """How often each reference label (row) was answered with each label (column)."""

    model: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class ClassScore(Fact):
    """F1 of one label for one model; `rows` is how many held-out rows bear the label."""

    label: str
    model: str
    rows: int
    f1: ScoreFact


class CalibrationBin(Fact):
    """One bin of a reliability diagram: the mean stated probability and the observed share of right answers."""

    low: float
    high: float
    confidence: float
    accuracy: ScoreFact
    rows: int


class ReliabilityFacts(Fact):
    """Stated probabilities of one model beside the share that was right."""

    model: str
    bins: tuple[CalibrationBin, ...]
    ece: ScoreFact | None = None


class SliceFact(Fact):
    """A metric on the rows whose column `name` has the value `value`."""

    name: str
    value: str
    model: str
    metric: str
    rows: int
    score: ScoreFact
    gain: ComparisonFact | None = None
    """Of the model that the evaluation is about: how far it is above its base on these rows; p is corrected (Holm) over
    all slices."""


class RowFact(Fact):
    """One held-out row and what each model answered; long text is cut for the report."""

    id: str
    text: str
    reference: str
    answers: dict[str, str]
    correct: dict[str, bool | None] = Field(default_factory=dict)


class MediaFact(Fact):
    """A picture or a sound of a row."""

    kind: Literal["image", "audio"]
    title: str
    """What it is, and which of the row's."""
    url: str = Field(default="", exclude=True)
    """A small copy as a data URL; empty where the page has no room for it, or its bytes cannot be read."""


class Advice(Fact):
    """A suggestion that may improve the outcome, with its command."""

    what: str
    why: str
    command: str


class EvaluationFacts(Fact):
    """One evaluation: models on the same held-out rows, compared in pairs."""

    name: str
    task: Literal["label", "text"]
    rows: int
    main_metric: str
    models: tuple[ModelFacts, ...]
    comparisons: tuple[ComparisonFact, ...] = ()
    probed: tuple[ComparisonFact, ...] = ()
    """The same of what tasks and probes measured."""
    confusions: tuple[ConfusionMatrix, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    reliability: tuple[ReliabilityFacts, ...] = ()
    slices: tuple[SliceFact, ...] = ()
    fixed: tuple[RowFact, ...] = ()
    """Rows that the base had wrong and the tuned model has right (as many as the report shows)."""
    broken: tuple[RowFact, ...] = ()
    samples: tuple[RowFact, ...] = ()
    everything: tuple[RowFact, ...] = ()
    """Every held-out row, for the browser of rows; embedded compressed."""
    media: dict[str, tuple[MediaFact, ...]] = Field(default_factory=dict)
    """By the id of a row that is shown, its pictures and sounds."""
    notes: tuple[str, ...] = ()
    """Warnings of the evaluation, as sentences."""
    advice: tuple[Advice, ...] = ()
    """What may change it where a plain baseline does as well."""

    def model(self, name: str) -> ModelFacts | None:
        """One of the models by name."""
        return next((model for model in self.models if model.name == name), None)

    def of_role(self, role: ModelRole) -> tuple[ModelFacts, ...]:
        """All models of one role, in order."""
        return tuple(model for model in self.models if model.role == role)

    def title(self, name: str) -> str:
        """A model's name as people say it."""
        model_facts = self.model(name)
        return model_facts.title if model_facts else name

    def compared(self, a: str, b: str, metric: str) -> ComparisonFact | None:
        """The comparison of `a` with `b` on a metric, when it was made."""
        return next((c for c in self.comparisons if (c.a, c.b, c.metric) == (a, b, metric)), None)


class ModelRunFacts(Fact):
    """The subject model of one of several evaluations, with its scores and its comparison with that of the first."""

    name: str
    """What the evaluation is called: its step, or another recipe's and its step."""
    model: str
    rows: int
    scores: dict[str, ScoreFact]
    compared: tuple[ComparisonFact, ...] = ()
    """This model minus that of the first evaluation, on the same rows."""
    why: str = ""
    """Why it cannot be compared with the first."""
