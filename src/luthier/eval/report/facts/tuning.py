"""Facts about a training run in a report: its settings, its log, and sampled completions."""

from __future__ import annotations

from pydantic import Field

from luthier.eval.report.facts.fact import Fact


class LogPoint(Fact):
    """One optimizer step as logged."""

    step: int
    loss: float | None = None
    held_out_loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    held_out: dict[str, float] = Field(default_factory=dict)
    """Metrics on the held-out rows, when they were measured after this step."""
    drawn: dict[str, float] = Field(default_factory=dict)
    """Of a policy: what its own answers were worth, and what else is told of them."""


class PolicySampleFact(Fact):
    """A policy's likeliest answer to a prompt, before a step."""

    step: int
    id: str
    """The example's."""
    answer: str
    reward: float | None = None


class PromptTrialFact(Fact):
    """A prompt that a search tried, and how far it came."""

    what: str
    """Where its instruction comes from, and how its examples were chosen."""
    instruction: str | None = None
    """None: the rows' own."""
    rows: int
    score: float
    low: float
    high: float


class TokenSpanFact(Fact):
    """Neighbouring tokens of a row that are all trained on, or all only read."""

    text: str
    trained: bool


class SequenceFact(Fact):
    """One sequence of tokens that is read for a row."""

    name: str = ""
    """Which of the row's sequences it is, where there are several: `chosen`, `rejected`."""
    tokens: int
    trained_tokens: int
    stretches: tuple[TokenSpanFact, ...]


class RenderedRowFact(Fact):
    """A training row as token sequences, as the model saw it."""

    id: str
    file: str
    line: int
    cut_tokens: int = 0
    left_out: str | None = None
    """Why nothing of it was trained on."""
    sequences: tuple[SequenceFact, ...] = ()


class TuningFacts(Fact):
    """How a model was tuned."""

    name: str
    technique: str
    objective: str
    optimizer: str = ""
    settings: dict[str, str] = Field(default_factory=dict)
    """Settings of technique, objective and loop, by dotted name."""
    steps: int | None = None
    stopped: str = ""
    """After which step and why it ended before its last one; empty when it did not."""
    rows: int | None = None
    """Rows seen; a row seen in three epochs counts three times."""
    trained_rows: int | None = None
    """Different rows that were trained on; None where no weight moved, or where that was not recorded."""
    training_rows: int | None = None
    """Rows of the training split."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Rows of the training split that were not trained on, by the reason."""
    tokens: int | None = None
    learnt_tokens: int | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    cut_rows: int | None = None
    """Rows that were longer than the limit and were cut."""
    rendered: tuple[RenderedRowFact, ...] = ()
    """The first training rows, as the model saw them."""
    log: tuple[LogPoint, ...] = ()
    samples: tuple[PolicySampleFact, ...] = ()
    """Of a policy: answers to the same prompts over time, by prompt."""
    tried: tuple[PromptTrialFact, ...] = ()
    """Of a search of prompts: those that came furthest, the chosen one first."""
    prompts: int | None = None
    """How many prompts were tried in all."""
    why: str = ""
    """Why the prompt was chosen."""
    privacy: str = ""
    """What a private training promises of each unit; empty for any other."""
    merged: str = ""
    """Of a merging: the models, each with its weight, and how they became one."""
