"""The step that turns an evaluation's answers into questions to people, blind."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.counted import counted
from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.core.step import Forecast, Outlook, Reads, Step, Work
from luthier.eval.form import Form
from luthier.eval.forms.pairwise import Pairwise
from luthier.text.evaluation import EvaluationSummary

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.eval.human.assign import Candidate

JudgeName = Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]


class Assign(Step):
    """Choose rows of an evaluation and give the models' answers to people to judge, without saying whose they are.

    `luthier judge RECIPE:STEP --as NAME` asks them on the terminal, or writes and reads files.
    """

    kind: Literal["assign"] = "assign"
    makes: ClassVar[str] = "assignment"

    report: Annotated[str, Reads("evaluation")]
    """The step that evaluated the models."""
    form: Form = Pairwise()
    """What people are asked."""
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Whose answers are judged; left out, the tuned model's and its base's. Of more than two, all pairs are."""
    rows: int | None = Field(default=100, ge=1)
    """How many held-out rows, drawn by content; left out (null), all."""
    judges: int | tuple[JudgeName, ...] = Field(default=1)
    """How many people judge, or their names."""
    overlap: int = Field(default=1, ge=1)
    """How many people judge each item; with two or more, how far they agree is measured."""
    planted: int = Field(default=0, ge=0)
    """Items of which the answer is known (a row's own reference against another row's), to see who reads."""

    @field_validator("judges")
    @classmethod
    def _somebody(cls, judges: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if judges in (0, ()) or (isinstance(judges, int) and judges < 0):
            raise ValueError("nobody judges; name at least one person")
        if isinstance(judges, tuple) and len(set(judges)) < len(judges):
            raise ValueError("a judge is named twice")
        return judges

    @model_validator(mode="after")
    def _enough_people(self) -> Assign:
        if self.overlap > len(self.names):
            raise ValueError(f"{self.overlap} people judge each item (overlap), and there are {len(self.names)} judges")
        if self.models is not None and len(set(self.models)) < max(len(self.models), self.form.sides):
            raise ValueError(f"a {self.form.kind} judgment needs {self.form.sides} different models")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Who judges."""
        if isinstance(self.judges, tuple):
            return self.judges
        return tuple(f"judge-{number + 1}" for number in range(self.judges))

    def make(self, work: Work) -> Mapping[str, Any]:
        """Draw, shuffle and write."""
        from luthier.eval.human.assign import assign, write_assignment

        evaluation = work.inputs["report"]
        models = self._models(evaluation)
        pairs = list(combinations(models, 2)) if self.form.sides == 2 else [(model,) for model in models]
        made = assign(
            _candidates(evaluation, models),
            pairs,
            rows=self.rows,
            judges=self.names,
            overlap=self.overlap,
            planted=self.planted,
            seed=work.seed,
        )
        asked = sum(not entry.planted for entry in made.key.values())
        if not asked:
            work.events.warning("there is nothing to judge: the models say the same in every row")
        planted = len(made.key) - asked
        if planted < self.planted:
            work.events.warning(f"{planted} of {self.planted} items could be planted: the rows have too few references")
        if made.same:
            work.events.note(f"{counted(len(made.same), 'pair')} of answers with the same text: ties, unasked")
        each = max(map(len, made.sheets.values()))
        work.events.note(
            f"{counted(asked, 'item')} and {planted} planted for {counted(len(self.names), 'judge')}, {each} for each"
        )
        about = {"form": self.form.settings(), "models": models, "subject": models[0]}
        write_assignment(work.folder, made, about)
        return {}

    def _models(self, evaluation: Artifact) -> list[str]:
        known = EvaluationSummary.read(evaluation).order
        models = list(self.models) if self.models is not None else [name for name in known if name in ("tuned", "base")]
        for name in models:
            if name not in known:
                what = f"the evaluation has no model {name!r}"
                raise RecipeError(what, where=Where(field="models"), remedy=did_you_mean(name, known))
        if len(models) < self.form.sides:
            what = f"a {self.form.kind} judgment is between two models, and the evaluation has {', '.join(known)}"
            raise RecipeError(what, where=Where(field="models"), remedy=f"name two in `models`: {', '.join(known)}")
        return models

    def foresee(self, outlook: Outlook) -> Forecast:
        """Reads and writes a few files."""
        return Forecast(seconds=1.0, how="reads the evaluation's answers")


def _candidates(evaluation: Artifact, models: list[str]) -> list[Candidate]:
    """The rows that every model answered, with what was asked."""
    from luthier.eval.human.assign import Candidate
    from luthier.eval.tables import read_answers
    from luthier.eval.turns import as_asked
    from luthier.text.dataset import read_examples
    from luthier.text.messages import prompt_of

    prompts = {
        one.id: tuple(turn.model_dump(mode="json", exclude_defaults=True) for turn in prompt_of(one))
        for one in as_asked(read_examples(evaluation.parent("data"), EvaluationSummary.read(evaluation).split))
    }
    told = {model: read_answers(evaluation, model) for model in models}
    ids, first = told[models[0]]
    return [
        Candidate(
            row=row,
            prompt=prompts[row],
            answers={model: told[model][1].predictions[place] for model in models},
            reference=first.references[place][0],
        )
        for place, row in enumerate(ids)
    ]
