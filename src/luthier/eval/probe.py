"""Probes: the role `probe`, and the tables of sentences that probes read.

A probe measures a property of every model beyond the task's metrics, such as bias, safety or forgetting. Tables are
text files of the package with one row a line and cells separated by `|`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.artifacts.findings import ProbeRow
from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.messages import gettext_noop
from luthier.eval.cached_model import CachedEvalModel
from luthier.eval.model import Verb
from luthier.eval.task import HeldOutTask, find_last_turns, list_conversation_ids
from luthier.metrics.metric import EvalPredictions
from luthier.metrics.paired import PairedComparison

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.eval.media_ablation import EvalMedia


@dataclass(frozen=True, kw_only=True)
class ProbeMeasure:
    """One number of one model, with its 95 % interval."""

    name: str
    """Family and measure, such as `bias.gap`, as in a gate's rule."""
    model: str
    value: float
    low: float
    high: float
    rows: int
    signature: str
    detail: Mapping[str, float]
    """The parts behind the number, such as each group's score."""
    detectable: float | None = None
    """Smallest effect detectable with 80 % power on these rows."""
    against: Mapping[str, PairedComparison] = field(default_factory=dict)
    """This model minus each other one on the same rows; of the model that the evaluation is about."""

    def as_json(self) -> dict[str, Any]:
        """All but name and model, which are its place in `metrics.json`, and the comparisons, which have a file."""
        shown = {key: value for key, value in vars(self).items() if key not in ("name", "model", "against")}
        return {key: value for key, value in shown.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ProbeContext(RunContext):
    """Context of a probe."""

    task: HeldOutTask
    answers: Mapping[str, EvalPredictions]
    """Each model's answers to the held-out rows, the model that the evaluation is about first."""
    data: Artifact
    """The data set."""
    eval_models: Mapping[str, CachedEvalModel] = field(default_factory=dict)
    """Each model to be asked more."""
    model: Artifact | None = None
    """The model that the evaluation is about."""
    media: EvalMedia | None = None
    """Takes in pictures and sounds that a probe makes, and gives the bytes of those of the data set."""
    rows: list[ProbeRow] = field(default_factory=list)
    """Requests and responses, row by row: a probe appends to it, and it is written with the predictions."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the reader."""

    def able(self, verbs: Verb | Collection[Verb], what: str) -> dict[str, CachedEvalModel]:
        """The models that can be asked so; a note names language models that cannot be, and `what` is left out for."""
        requested = {verbs} if isinstance(verbs, str) else {*verbs}
        found = {name: eval_model for name, eval_model in self.eval_models.items() if requested <= eval_model.able}
        lacking = [
            eval_model.model.title
            for name, eval_model in self.eval_models.items()
            if name not in found and eval_model.is_model
        ]
        self.notes.extend(
            gettext_noop(f"{what} was not measured for {model}, which cannot be asked so.") for model in lacking
        )
        return found

    def with_eval_models(self, eval_models: Mapping[str, CachedEvalModel]) -> ProbeContext:
        """Return the context with some of the models; rows and notes are shared."""
        return replace(self, eval_models=eval_models)

    def of_last_turns(self) -> ProbeContext:
        """Return the context with only the last turn of each conversation, as probes use it."""
        if list_conversation_ids([example.id for example in self.task.examples]) is None:
            return self
        rows = find_last_turns(self.task)
        task = replace(self.task, examples=tuple(self.task.examples[row] for row in rows))
        answers = {
            name: replace(model_answers.select(rows), clusters=None) for name, model_answers in self.answers.items()
        }
        eval_models = {name: replace(eval_model, task=task) for name, eval_model in self.eval_models.items()}
        return replace(self, task=task, answers=answers, eval_models=eval_models)

    def read_trained_examples(self) -> list[Example]:
        """Return the rows that the tuned model was trained on; all rows for a model that was not tuned."""
        from luthier.artifacts.dataset import has_split, read_examples
        from luthier.eval.evaluator import select_trained_rows

        if not has_split(self.data, "train"):
            return []
        train = list(read_examples(self.data, "train"))
        return train if self.model is None else select_trained_rows(self.model, train)


class Probe(Component):
    """A probe: something measured of each model in addition to the metrics, such as bias or safety."""

    role: ClassVar[str] = "probe"
    home: ClassVar[str] = "luthier.eval.probes"
    measures: ClassVar[tuple[str, ...]]
    """The names of what it measures: a gate's rules may use them."""

    @abstractmethod
    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        """Measure every model."""


def adjust_measure_p_values(members: Sequence[ProbeMeasure]) -> list[PairedComparison]:
    """Return all comparisons of some measures with p values corrected for multiple testing (Holm)."""
    from luthier.metrics.paired import adjust_comparisons_holm

    return adjust_comparisons_holm([comparison for measure in members for comparison in measure.against.values()])


def read_probe_table(name: str) -> list[str]:
    """The rows of a table by its path below `eval`, in order, without empty lines and comments (`#`)."""
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
