"""The evidence behind advice: measured outcomes, published tables, rules with a source, and a user's past runs.

A record says how good one technique was on one data set. `outcomes.json` has those measured for this project
(`benchmarks/results`) and those of PEFT's comparison on MetaMathQA, each with its source. Rules are findings of papers
without a number for comparable data sets.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.messages import gettext_noop
from luthier.core.training_outcomes import TrainingOutcome

EvidenceKind = Literal["measured", "published", "past run", "probe"]


class EvidenceRecord(BaseModel):
    """How good one technique was on one set of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: EvidenceKind
    set: str
    """What the rows are called."""
    task: Literal["label", "text"]
    technique: str
    """Of `tune`; `base` is the base model as it is."""
    metric: str
    value: float = Field(ge=0, le=1)
    rows: int = Field(ge=1)
    """Held-out rows."""
    train_rows: int = Field(ge=1)
    classes: int = Field(default=0, ge=0)
    prompt_words: float = Field(default=0, ge=0)
    parameters: int = Field(default=0, ge=0)
    """Of the base model."""
    plain: float | None = Field(default=None, ge=0, le=1)
    """The same metric of a plain classifier: out of fold on the training rows, or on the held-out ones."""
    lora: float | None = Field(default=None, ge=0, le=1)
    """The same metric of LoRA on these rows, in the same comparison."""
    settings: dict[str, float | str] = {}
    tuning: float = Field(default=1.0, gt=0, le=1)
    """How well tuned it was: 1 where the settings were chosen by measurement, less where defaults of another model or
    task were taken."""
    source: str

    @property
    def sentence(self) -> str:
        """The record in a line."""
        comparison = f", a plain classifier {self.plain:.3f}" if self.plain is not None else ""
        comparison += f", LoRA {self.lora:.3f}" if self.lora is not None else ""
        where = f"{self.set}, {self.train_rows:,} rows"
        return f"{self.technique} on {where}: {self.metric} {self.value:.3f}{comparison} ({self.kind}; {self.source})"


class Rule(NamedTuple):
    """A paper's finding about a technique other than LoRA."""

    technique: str
    advantage: float
    """Expected difference of the logit of the quality from LoRA's."""
    spread: float
    """Its standard deviation; large where the finding gives no number."""
    sentence: str
    source: str


RULES = (
    Rule(
        "full",
        0.0,
        0.2,
        gettext_noop("on sets of usual size LoRA over all layers learns as full fine-tuning does"),
        "Schulman et al., LoRA Without Regret, 2025",
    ),
    Rule(
        "qlora",
        -0.02,
        0.15,
        gettext_noop("a base in 4 bits under adapters reaches what 16 bits reach"),
        "Dettmers et al., QLoRA, 2023",
    ),
    Rule(
        "adapter",
        -0.1,
        0.4,
        gettext_noop("bottleneck adapters come within half a point of full fine-tuning on GLUE"),
        "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 2019",
    ),
    Rule(
        "layers",
        -0.3,
        0.5,
        gettext_noop("the last quarter of the layers brings about 90 % of the quality of all of them"),
        "Lee, Tang and Lin, What Would Elsa Do?, 2019",
    ),
    Rule(
        "ia3",
        -0.3,
        0.5,
        gettext_noop("a few factors suffice for a few dozen rows of a large model that knows the task already"),
        "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning, 2022",
    ),
    Rule(
        "prefix",
        -0.4,
        0.6,
        gettext_noop("prefixes come close to full fine-tuning on generation, with larger models"),
        "Li and Liang, Prefix-Tuning, 2021",
    ),
    Rule(
        "p_tuning",
        -0.7,
        0.7,
        gettext_noop("virtual tokens from a small network train more steadily than free ones"),
        "Liu et al., GPT Understands, Too, 2021",
    ),
    Rule(
        "prompt",
        -1.0,
        0.7,
        gettext_noop("soft prompts are far behind full fine-tuning below ten billion parameters"),
        "Lester, Al-Rfou and Constant, The Power of Scale, 2021",
    ),
)


@cache
def read_shipped_evidence() -> tuple[EvidenceRecord, ...]:
    """The records of `outcomes.json`."""
    text = (files("luthier.auto.advice") / "outcomes.json").read_text(encoding="utf-8")
    return tuple(EvidenceRecord.model_validate(entry) for entry in json.loads(text))


def convert_outcome(outcome: TrainingOutcome) -> EvidenceRecord:
    """A past run of this user's as evidence."""
    return EvidenceRecord(
        kind="past run",
        set=f"evaluation {outcome.digest[:12]}",
        task=outcome.task,
        technique=outcome.technique,
        metric=outcome.metric,
        value=outcome.value,
        rows=outcome.rows,
        train_rows=outcome.train_rows,
        classes=outcome.classes,
        prompt_words=outcome.prompt_words,
        parameters=outcome.parameters,
        plain=outcome.plain,
        settings=outcome.settings,
        tuning=0.7,
        source="remembered on this machine",
    )
