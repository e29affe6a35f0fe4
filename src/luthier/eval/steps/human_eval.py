"""The step that turns an evaluation's answers into questions to people, blind."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.annotation.question import Question
from luthier.annotation.questions.comparison import PairQuestion
from luthier.artifacts.evaluation import EvaluationSummary
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.core.step import PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.eval.human.study import JUDGE_NAME, check_gives_points

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.eval.human.study import RatingCandidate

JudgeName = Annotated[str, Field(pattern=JUDGE_NAME)]


class HumanEval(Step):
    """Choose rows of an evaluation and give the models' answers to people to judge, without saying whose they are.

    `luthier rate RECIPE:STEP --as NAME` asks them on the terminal, or writes and reads files.
    """

    kind: Literal["human_eval"] = "human_eval"
    makes: ClassVar[str] = "assignment"

    evaluation: Annotated[str, Reads("evaluation")]
    """The step that evaluated the models."""
    question: Question = PairQuestion()
    """What people are asked; a question that gives points."""
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Whose answers are judged; left out, the tuned model's and its base's. Of more than two, all pairs are."""
    rows: int | None = Field(default=100, ge=1)
    """How many held-out rows, drawn by content; left out (null), all."""
    annotators: int | tuple[JudgeName, ...] | Literal["open"] = Field(default=1)
    """How many people judge, or their names; `open`: whoever has the link of the study in the studio, and each is dealt
    what tells most then."""
    overlap: int = Field(default=1, ge=1)
    """How many people judge each item; with two or more, how far they agree is measured."""
    attention_checks: int = Field(default=0, ge=0)
    """Items of which the answer is known (a row's own reference against another row's), to see who reads."""

    @field_validator("question")
    @classmethod
    def _gives_points(cls, question: Question) -> Question:
        return check_gives_points(question)

    @field_validator("annotators")
    @classmethod
    def _somebody(cls, judges: int | tuple[str, ...] | str) -> int | tuple[str, ...] | str:
        if judges in (0, ()) or (isinstance(judges, int) and judges < 0):
            raise ValueError("nobody judges; name at least one person")
        if isinstance(judges, tuple) and len(set(judges)) < len(judges):
            raise ValueError("a judge is named twice")
        return judges

    @model_validator(mode="after")
    def _enough_people(self) -> HumanEval:
        if self.annotators != "open" and self.overlap > len(self.names):
            raise ValueError(f"{self.overlap} people judge each item (overlap), and there are {len(self.names)} judges")
        if self.models is not None and len(set(self.models)) < max(len(self.models), self.question.sides):
            raise ValueError(f"a {self.question.kind} judgment needs {self.question.sides} different models")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Who judges; nobody is named where it is open."""
        if self.annotators == "open":
            return ()
        if isinstance(self.annotators, tuple):
            return self.annotators
        return tuple(f"judge-{number + 1}" for number in range(self.annotators))

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Draw, shuffle and write."""
        from luthier.eval.human.study import create_rating_assignment, write_assignment

        evaluation = work.inputs["evaluation"]
        models = self._models(evaluation)
        pairs = list(combinations(models, 2)) if self.question.sides == 2 else [(model,) for model in models]
        assignment = create_rating_assignment(
            _candidates(evaluation, models),
            pairs,
            rows=self.rows,
            judges=self.names,
            overlap=self.overlap,
            planted=self.attention_checks,
            seed=work.seed,
        )
        item_count = sum(not entry.planted for entry in assignment.key.values())
        if not item_count:
            work.events.warning("there is nothing to judge: the models say the same in every row")
        planted = len(assignment.key) - item_count
        if planted < self.attention_checks:
            work.events.warning(
                f"{planted} of {self.attention_checks} items could be planted: the rows have too few references"
            )
        if assignment.same:
            work.events.note(
                f"{format_counted_noun(len(assignment.same), 'pair')} of answers with the same text: ties, unasked"
            )
        dealt = "whoever has the link: `luthier studio`, or `luthier rate`"
        if assignment.sheets:
            each = max(map(len, assignment.sheets.values()))
            dealt = f"{format_counted_noun(len(self.names), 'judge')}, {each} for each"
        work.events.note(f"{format_counted_noun(item_count, 'item')} and {planted} planted for {dealt}")
        about = {"question": self.question.settings(), "models": models, "subject": models[0]}
        write_assignment(work.folder, assignment, about)
        return {}

    def _models(self, evaluation: Artifact) -> list[str]:
        known = EvaluationSummary.read(evaluation).order
        models = list(self.models) if self.models is not None else [name for name in known if name in ("tuned", "base")]
        for name in models:
            if name not in known:
                what = f"the evaluation has no model {name!r}"
                raise RecipeError(what, where=SourceLocation(field="models"), hint=did_you_mean(name, known))
        if len(models) < max(1, self.question.sides):
            what = f"a {self.question.kind} judgment is between two models, and the evaluation has {', '.join(known)}"
            raise RecipeError(
                what, where=SourceLocation(field="models"), hint=f"name two in `models`: {', '.join(known)}"
            )
        return models

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Reads and writes a few files."""
        return StepCostEstimate(seconds=1.0, how=gettext_noop("reads the evaluation's answers"))


def _candidates(evaluation: Artifact, models: list[str]) -> list[RatingCandidate]:
    """The rows that every model answered, with what was asked."""
    from luthier.artifacts.dataset import read_examples
    from luthier.chat.messages import prompt_of
    from luthier.eval.human.study import RatingCandidate
    from luthier.eval.predictions import read_answers
    from luthier.eval.task import expand_example_turns

    prompts = {
        example_turn.id: tuple(turn.model_dump(mode="json", exclude_defaults=True) for turn in prompt_of(example_turn))
        for example_turn in expand_example_turns(
            read_examples(evaluation.parent("data"), EvaluationSummary.read(evaluation).split)
        )
    }
    model_answers = {model: read_answers(evaluation, model) for model in models}
    ids, first = model_answers[models[0]]
    return [
        RatingCandidate(
            row=row,
            prompt=prompts[row],
            answers={model: model_answers[model][1].predictions[index] for model in models},
            reference=first.references[index][0],
        )
        for index, row in enumerate(ids)
    ]
