"""A probe measures something beyond the task's own metrics (bias, safety, forgetting), for every model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.eval.respondent import Respondent
from luthier.eval.rows import Task
from luthier.eval.turns import conversations, last_turns
from luthier.eval.voice import Verb
from luthier.metrics.answers import Answers
from luthier.metrics.paired import Comparison
from luthier.text.probed import Probed

if TYPE_CHECKING:
    from luthier.text.messages import Example


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of one model, with its 95 % interval."""

    name: str
    """Family and measure, such as `bias.gap`: what a gate's rule says."""
    model: str
    value: float
    low: float
    high: float
    rows: int
    signature: str
    detail: Mapping[str, float]
    """The parts behind the number, such as each group's score."""
    detectable: float | None = None
    """The smallest difference from nothing that so many rows would show in four runs of five: the probe's power."""
    against: Mapping[str, Comparison] = field(default_factory=dict)
    """This model minus each other one on the same rows; of the model that the evaluation is about."""

    def as_json(self) -> dict[str, Any]:
        """All but name and model, which are its place in `metrics.json`, and the comparisons, which have a file."""
        shown = {key: value for key, value in vars(self).items() if key not in ("name", "model", "against")}
        return {key: value for key, value in shown.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a probe works with."""

    task: Task
    answers: Mapping[str, Answers]
    """Each model's answers to the held-out rows, the model that the evaluation is about first."""
    seed: int
    data: Artifact
    """The data set."""
    respondents: Mapping[str, Respondent] = field(default_factory=dict)
    """Each model to be asked more."""
    model: Artifact | None = None
    """The model that the evaluation is about."""
    base: Path = Path()
    """The recipe's folder: relative paths start here."""
    kept: list[Probed] = field(default_factory=list)
    """What was asked and said, row by row: a probe adds to it, and it is written beside the predictions."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of how probes went."""

    def able(self, verb: Verb, what: str) -> dict[str, Respondent]:
        """The models that can be asked so; a note names language models that cannot be, and `what` is left out for."""
        found = {name: one for name, one in self.respondents.items() if verb in one.able}
        lacking = [one.voice.title for one in self.respondents.values() if verb not in one.able and one.is_model]
        self.notes.extend(f"{what} was not measured for {title}, which cannot be asked so." for title in lacking)
        return found

    def of_last_turns(self) -> Bench:
        """The same, each conversation with its last turn only: rows of their own, which is what probes look at."""
        if conversations([example.id for example in self.task.examples]) is None:
            return self
        rows = last_turns(self.task)
        task = replace(self.task, examples=tuple(self.task.examples[row] for row in rows))
        answers = {name: replace(told.select(rows), clusters=None) for name, told in self.answers.items()}
        asked = {name: replace(one, task=task) for name, one in self.respondents.items()}
        return replace(self, task=task, answers=answers, respondents=asked)

    def learnt(self) -> list[Example]:
        """The training rows that the tuned model learnt from; all of them for a model that was not tuned."""
        from luthier.eval.contestant import learnt_rows
        from luthier.text.dataset import has_split, read_examples

        if not has_split(self.data, "train"):
            return []
        train = list(read_examples(self.data, "train"))
        return train if self.model is None else learnt_rows(self.model, train)


class Probe(Component):
    """Something measured for each model beside the metrics."""

    role: ClassVar[str] = "probe"
    home: ClassVar[str] = "luthier.eval.probes"
    measures: ClassVar[tuple[str, ...]]
    """The names of what it measures: a gate's rules may use them."""

    @abstractmethod
    def measure(self, bench: Bench) -> list[Measure]:
        """Measure every model."""


def family(members: Sequence[Measure]) -> list[Comparison]:
    """All comparisons of some measures, each with its p corrected for how many there are."""
    from luthier.metrics.paired import with_holm

    return with_holm([one for measure in members for one in measure.against.values()])
