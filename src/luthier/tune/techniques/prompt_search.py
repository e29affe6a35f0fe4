"""Prompt search: choose an instruction and few-shot examples by measured score within a budget; no weight
is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import InputError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, PlanContext, StepContext, StepCostEstimate
from luthier.metrics.metric import Metric
from luthier.models.describe import ModelDescription
from luthier.models.lm.base import Normalize
from luthier.models.load import Dtype
from luthier.tune.technique import StandaloneTechnique

if TYPE_CHECKING:
    from luthier.chat.messages import Example

HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""


class PromptSearch(StandaloneTechnique):
    """The instruction and examples with which a model answers best: nothing is trained, and any endpoint will do."""

    kind: Literal["prompt_search"] = "prompt_search"
    used: ClassVar[frozenset[str]] = frozenset({*StandaloneTechnique.used, "model", "dtype", "seed"})

    instructions: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """System messages to try, besides the rows' own."""
    variations: bool = True
    """Whether instructions are also tried said otherwise: with the labels listed, asking for the answer only, asking
    to read carefully; the list of labels alone; and none at all. How a task is worded moves a model's score more than
    people expect (Mishra et al., "Reframing Instructional Prompts", 2022)."""
    proposals: int = Field(default=0, ge=0, le=100)
    """Number of further instructions that the model itself writes after seeing examples (Zhou et al., "Large Language
    Models Are Human-Level Prompt Engineers", 2023). Small models write poor ones; an endpoint is called once for
    each."""
    shots: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(default=(0, 4, 8), min_length=1)
    """How many examples are shown: each of these counts is tried. Most of the gain comes from the first 4 to 8
    (Min et al., "Rethinking the Role of Demonstrations", 2022), and every one costs its tokens at each question.
    A count for which there are too few rows is refused; of the default, what can be shown is tried."""
    draws: int = Field(default=2, ge=1, le=50)
    """Number of example sets drawn for each count, balanced by class. Which examples are shown, and in which order, can
    move a score from chance to the best (Lu et al., "Fantastically Ordered Prompts", 2022)."""
    nearest: bool = True
    """Whether the set closest to the held-back questions by TF-IDF is tried as well (Liu et al., "What Makes Good
    In-Context Examples for GPT-3?", 2022; here one fixed set for all questions)."""
    held_back: int = Field(default=150, ge=2)
    """Training rows that no prompt shows and on which all are scored; at most half of the rows. The test split is never
    read."""
    budget: int = Field(default=2000, ge=4)
    """Maximum number of scored rows, over all prompts: for an endpoint, calls. Prompts are dropped as they fall behind
    (successive halving), so most of it goes to the best."""
    metric: Metric | None = None
    """The metric to maximize; by default accuracy for labels and rougeL for texts."""
    normalize: Normalize = "sum"
    """How the scores of labels are made alike, as in `evaluate`, which should say the same: `sum` of log-probabilities,
    `mean` a token, or less the label's `prior`: shown examples push small models to one label, whatever the question,
    and this takes the push out (Zhao et al., "Calibrate Before Use", 2021)."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Maximum tokens of a generated answer, for tasks of texts."""

    @field_validator("metric")
    @classmethod
    def _needs_no_likelihood(cls, metric: Metric | None) -> Metric | None:
        if metric is not None and "logprobs" in metric.needs:
            raise ValueError(f"{metric.kind} measures likelihood, not answers; take accuracy, rougeL or exact_match")
        return metric

    @field_validator("instructions")
    @classmethod
    def _says_something(cls, instructions: tuple[str, ...]) -> tuple[str, ...]:
        for number, text in enumerate(instructions, start=1):
            if not text.strip():
                what = f"instruction {number} of {len(instructions)} is blank"
                raise ValueError(f"{what}; leave it out (`variations` tries no instruction at all, too)")
            if text in instructions[: number - 1]:
                first = instructions.index(text) + 1
                raise ValueError(f"instruction {number} is instruction {first} again; leave one of them out")
        return instructions

    @field_validator("shots")
    @classmethod
    def _counts_each_once(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [count for count in shots if shots.count(count) > 1]:
            raise ValueError(f"{twice[0]} stands there twice; each count is tried once, with `draws` sets of examples")
        return shots

    @model_validator(mode="after")
    def _shows_what_is_drawn(self) -> Self:
        if any(self.shots):
            return self
        for name in ("draws", "nearest"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} changes nothing where shots [0] show no examples; leave it out")
        return self

    @model_validator(mode="after")
    def _has_a_choice(self) -> Self:
        if not (self.instructions or self.variations or self.proposals or any(self.shots)):
            what = "shots [0] without instructions, variations and proposals leave one prompt, the one that is there"
            raise ValueError(f"{what}; give some of them, or larger shots")
        return self

    @model_validator(mode="after")
    def _budget_asks_two(self) -> Self:
        if self.budget < 2 * self.held_back:
            least = 2 * self.held_back
            raise ValueError(f"budget {self.budget} does not ask two prompts {self.held_back} rows; {least} does")
        return self

    def at_share(self, share: float) -> Self:
        """Return the search with a share of its budget; fewer rows are held back where two prompts cannot be scored on
        all.
        """
        budget = max(4, round(share * self.budget))
        held_back = min(self.held_back, budget // 2)
        return type(self).model_validate({**dict(self), "budget": budget, "held_back": held_back})

    def shown(self, held: int, able: int) -> tuple[int, ...]:
        """Return the counts of examples that can be shown, where `held` rows are held back and `able` others are
        usable.

        `InputError` for a larger count that the user set; of the defaults, those that are possible are tried.
        """
        missing = [str(count) for count in self.shots if count > able]
        if missing and self.shots != type(self).model_fields["shots"].default:
            what = f"{held} rows are held back, which leaves {able} to show, got {', '.join(missing)}"
            where = SourceLocation(field="technique.shots")
            raise InputError(what, where=where, hint="show fewer, hold back fewer (`held_back`), or give more rows")
        return tuple(count for count in self.shots if count <= able)

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return weights in fp32, the states of one layer, and the logits of some positions."""
        states = tokens * (8 * model.hidden_size + 3 * model.intermediate_size)
        return 4 * (model.parameters + states + min(tokens, HEAD_ROWS) * model.vocab)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The number of examples, and of example sets."""
        return {
            "shots": ParamDistribution(values=((0, 4), (0, 4, 8), (0, 8, 16))),
            "draws": ParamDistribution(1, 8, integer=True),
        }

    def fit(self, work: StepContext, examples: Sequence[Example], dtype: Dtype) -> dict[str, Any]:
        """Score prompts on held-back rows, round by round, and write the best one."""
        from luthier.tune.prompt_search.search import PromptSearchRun

        return PromptSearchRun(self, work, examples, dtype).run()

    def estimate_cost(self, plan_context: PlanContext, rows: int | None) -> StepCostEstimate:
        """Estimate from the budget, the rows' length, and the speed of the last search or of this machine."""
        from luthier.tune.prompt_search.cost import estimate_cost

        return estimate_cost(self, plan_context, rows)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the model with a prompt."""
        from luthier.tune.forecast import predict_tuned_model

        return replace(predict_tuned_model(plan_context), merging=self.merging)
