"""Everything a report says, as one frozen value: `collect` fills it from artifacts, `render` turns it into a page.

Each part is optional: a section of the report appears when its facts are there.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.eval.human.opinion import Opinion
from luthier.text.findings import Finding

ModelRole = Literal["tuned", "base", "plain", "other"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

LOWER_IS_BETTER = frozenset({"perplexity", "bits_per_byte", "ece", "brier", "ter", "wer", "cer"})
"""Metrics of which a smaller value is the better one."""


class Fact(BaseModel):
    """Something known: frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Score(Fact):
    """A number with its 95 % interval; `value` is None when it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    signature: str = ""


class Measured(Fact):
    """What a probe found for one model, such as the gap between groups, with the parts behind it."""

    score: Score
    rows: int = 0
    detail: dict[str, float] = {}
    """Each group's own value."""
    detectable: float | None = None
    """The smallest difference from nothing that so many rows would show in four runs of five."""


class ModelFacts(Fact):
    """One model (or plain baseline) and its scores on the held-out rows, by metric."""

    name: str
    """The name in the files: `tuned`, `base`, `tfidf`, `majority`, …"""
    title: str
    """The name as people say it."""
    role: ModelRole
    metrics: dict[str, Score]
    measures: dict[str, Measured] = {}
    """What probes found, by family and measure (`bias.gap`)."""


class Comparison(Fact):
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


class Confusion(Fact):
    """How often each reference label (row) was answered with each label (column)."""

    model: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class ClassScore(Fact):
    """F1 of one label for one model; `rows` is how many held-out rows bear the label."""

    label: str
    model: str
    rows: int
    f1: Score


class Bin(Fact):
    """Answers whose stated probability falls between `low` and `high`: what was said, and what came true."""

    low: float
    high: float
    confidence: float
    accuracy: Score
    rows: int


class Reliability(Fact):
    """Stated probabilities of one model beside the share that was right."""

    model: str
    bins: tuple[Bin, ...]
    ece: Score | None = None


class Slice(Fact):
    """A metric on the rows whose column `name` has the value `value`."""

    name: str
    value: str
    model: str
    metric: str
    rows: int
    score: Score
    gain: Comparison | None = None
    """Of the model that the evaluation is about: how far it is above its base on these rows; p is corrected (Holm) over
    all slices."""


class Row(Fact):
    """One held-out row and what each model answered; long text is cut for the report."""

    id: str
    text: str
    reference: str
    answers: dict[str, str]
    correct: dict[str, bool | None] = {}


class EvaluationFacts(Fact):
    """One evaluation: models on the same held-out rows, compared in pairs."""

    name: str
    task: Literal["label", "text"]
    rows: int
    main_metric: str
    models: tuple[ModelFacts, ...]
    comparisons: tuple[Comparison, ...] = ()
    probed: tuple[Comparison, ...] = ()
    """The same of what tasks and probes measured."""
    confusions: tuple[Confusion, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    slices: tuple[Slice, ...] = ()
    fixed: tuple[Row, ...] = ()
    """Rows that the base had wrong and the tuned model has right (as many as the report shows)."""
    broken: tuple[Row, ...] = ()
    samples: tuple[Row, ...] = ()
    everything: tuple[Row, ...] = ()
    """Every held-out row, for the browser of rows; embedded compressed."""
    notes: tuple[str, ...] = ()
    """Warnings of the evaluation, as sentences."""

    def model(self, name: str) -> ModelFacts | None:
        """One of the models by name."""
        return next((model for model in self.models if model.name == name), None)

    def of_role(self, role: ModelRole) -> tuple[ModelFacts, ...]:
        """All models of one role, in order."""
        return tuple(model for model in self.models if model.role == role)

    def title(self, name: str) -> str:
        """A model's name as people say it."""
        found = self.model(name)
        return found.title if found else name

    def compared(self, a: str, b: str, metric: str) -> Comparison | None:
        """The comparison of `a` with `b` on a metric, when it was made."""
        return next((c for c in self.comparisons if (c.a, c.b, c.metric) == (a, b, metric)), None)


class RunFacts(Fact):
    """The model that one of several evaluations is about."""

    name: str
    """What the evaluation is called: its step, or another recipe's and its step."""
    model: str
    rows: int
    scores: dict[str, Score]
    compared: tuple[Comparison, ...] = ()
    """This model minus that of the first evaluation, on the same rows."""
    why: str = ""
    """Why it cannot be compared with the first."""


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


class Source(Fact):
    """Where rows came from."""

    name: str
    files: tuple[str, ...] = ()
    rows: int | None = None
    digest: str = ""
    licence: str = ""


class Edit(Fact):
    """One edit of an operator: where, why, and the text before and after."""

    operator: str
    reason: str
    place: str
    before: str
    after: str


class LabelCount(Fact):
    """How many rows bear a label, by split."""

    label: str
    rows: dict[str, int]


class Counted(Fact):
    """What an operator counted, by what it found and where."""

    operator: str
    places: tuple[str, ...]
    rows: dict[str, dict[str, int]]


class Rightness(Fact):
    """How right an operator was about one kind on a labelled sample; rates with their intervals."""

    operator: str
    kind: str
    wanted: int
    found: int
    recall: tuple[float, float, float] | None = None
    precision: tuple[float, float, float] | None = None


class DataFacts(Fact):
    """What became of every row that went in."""

    name: str
    rows_in: int
    """Rows that were read, and rows that were made here."""
    splits: dict[str, int]
    made: dict[str, int] = {}
    """Of them, rows that were made out of others, by augmenter."""
    dropped: dict[str, int] = {}
    edited: dict[str, int] = {}
    """Edits by operator."""
    labels: tuple[LabelCount, ...] = ()
    counted: tuple[Counted, ...] = ()
    rightness: tuple[Rightness, ...] = ()
    edits: tuple[Edit, ...] = ()
    sources: tuple[Source, ...] = ()


class FoundRow(Fact):
    """One row that a finding is about."""

    id: str
    place: str
    text: str
    answer: str
    note: str = ""


class FindingFacts(Fact):
    """One finding about the data, with its first rows."""

    finding: Finding
    shown: tuple[FoundRow, ...] = ()


class ValidationFacts(Fact):
    """What was looked for in a data set, and found."""

    name: str
    sentence: str
    """In plain words, whether the data are fit to train on."""
    rows: int
    looked_at: int
    findings: tuple[FindingFacts, ...]
    """The worst first."""
    skipped: dict[str, str] = {}
    """Checks that could not be made, with the reason."""

    def worth_mending(self) -> list[FindingFacts]:
        """Findings that are serious or a warning."""
        return [one for one in self.findings if one.finding.severity != "info"]

    def in_order(self) -> list[FindingFacts]:
        """Findings with nothing to mend."""
        return [one for one in self.findings if one.finding.severity == "info"]


class PeopleFacts(Fact):
    """What people said of the answers."""

    name: str
    opinion: Opinion


class LogPoint(Fact):
    """One optimizer step as logged."""

    step: int
    loss: float | None = None
    held_out_loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    held_out: dict[str, float] = {}
    """Metrics on the held-out rows, when they were measured after this step."""
    drawn: dict[str, float] = {}
    """Of a policy: what its own answers were worth, and what else is told of them."""


class SampleFact(Fact):
    """A policy's likeliest answer to a prompt, before a step."""

    step: int
    id: str
    """The example's."""
    answer: str
    reward: float | None = None


class Tried(Fact):
    """A prompt that a search tried, and how far it came."""

    what: str
    """Where its instruction comes from, and how its examples were chosen."""
    instruction: str | None = None
    """None: the rows' own."""
    rows: int
    score: float
    low: float
    high: float


class TuningFacts(Fact):
    """How a model was tuned."""

    name: str
    technique: str
    objective: str
    optimizer: str = ""
    settings: dict[str, str] = {}
    """Settings of technique, objective and loop, by dotted name."""
    steps: int | None = None
    stopped: str = ""
    """After which step and why it ended before its last one; empty when it did not."""
    rows: int | None = None
    """Rows seen; a row seen in three epochs counts three times."""
    tokens: int | None = None
    learnt_tokens: int | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    cut_rows: int | None = None
    """Rows that were longer than the limit and were cut."""
    log: tuple[LogPoint, ...] = ()
    samples: tuple[SampleFact, ...] = ()
    """Of a policy: answers to the same prompts over time, by prompt."""
    tried: tuple[Tried, ...] = ()
    """Of a search of prompts: those that came furthest, the chosen one first."""
    prompts: int | None = None
    """How many prompts were tried in all."""
    why: str = ""
    """Why the prompt was chosen."""


class Cost(Fact):
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


class Made(Fact):
    """An artifact behind the report."""

    step: str
    kind: str
    makes: str
    digest: str
    code: str = ""
    files: int = 0
    size: int = 0


class Provenance(Fact):
    """What is needed to check the report and to make it again."""

    recipe: str = ""
    """The recipe's text."""
    seed: int | None = None
    artifacts: tuple[Made, ...] = ()
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    licences: dict[str, str] = {}
    commands: tuple[str, ...] = ()


class ReportFacts(Fact):
    """All that a report says. The first evaluation answers the question; others stand beside it."""

    title: str
    created: str
    """When the report was made, as it shall be printed."""
    evaluations: tuple[EvaluationFacts, ...] = ()
    gates: tuple[GateFacts, ...] = ()
    validations: tuple[ValidationFacts, ...] = ()
    people: tuple[PeopleFacts, ...] = ()
    runs: tuple[RunFacts, ...] = ()
    """Evaluations side by side, when there are several."""
    data: tuple[DataFacts, ...] = ()
    tunings: tuple[TuningFacts, ...] = ()
    costs: tuple[Cost, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def verdict_sentence(self) -> str:
        """The answer in plain words: is the tuned model better, by how much, how sure."""
        from luthier.eval.report.sentence import verdict_sentence

        if self.evaluations:
            return verdict_sentence(self.evaluations[0])
        return self.data_sentence or "Nothing has been evaluated yet."

    @property
    def data_sentence(self) -> str:
        """Whether the data are fit to train on; empty when nobody looked."""
        return self.validations[0].sentence if self.validations else ""

    def as_json(self) -> dict[str, Any]:
        """The facts as plain data, with the sentence that opens the page."""
        return {"verdict_sentence": self.verdict_sentence, **self.model_dump(mode="json")}
