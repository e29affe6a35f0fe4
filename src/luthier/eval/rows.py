"""What is asked of every model: the held-out rows, the task, and for labels the answers to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from luthier.core.artifact import Artifact
from luthier.core.counted import counted
from luthier.core.digest import digest_of
from luthier.core.errors import DataError, RecipeError, Where
from luthier.eval.pairs import OPTIONS, are_pairs, labelled, offer_of
from luthier.eval.turns import conversations
from luthier.metrics.answers import Answers
from luthier.text.messages import answer_of, prompt_of, said_for

if TYPE_CHECKING:
    from luthier.text.messages import Example

TaskKind = Literal["label", "text"]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One model's answer to one row."""

    prediction: str
    scores: Mapping[str, float] | None = None
    """For labels: a log-score of each, comparable within the row."""
    tokens: int | None = None
    """For texts: how many tokens were generated."""
    finished: bool | None = None
    """For texts: whether the model ended by itself, rather than at the limit."""
    logprob: float | None = None
    """Natural log-likelihood of the reference, when a metric asked for it."""
    reference_tokens: int | None = None
    """Over how many tokens `logprob` is a sum."""
    columns: Mapping[str, float | None] | None = None
    """Numbers that scorers gave the answer."""

    @classmethod
    def of_scores(cls, scores: Mapping[str, float]) -> Reply:
        """The likeliest label; of equal ones, the first by name."""
        return cls(prediction=max(sorted(scores), key=lambda label: scores[label]), scores=scores)


class TaskType(NamedTuple):
    """What kind of answer rows ask for, which is known before they are read."""

    kind: TaskKind
    pairs: bool = False
    """Whether each row holds two answers, of which one is chosen."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The held-out rows and what is asked about them."""

    kind: TaskKind
    split: str
    examples: tuple[Example, ...]
    available: int
    """Rows of the split, of which `examples` may be a part."""
    options: Mapping[str, str]
    """For labels: what the assistant says for each, in the order of the labels."""
    pairs: bool = False
    """Whether each row holds two answers, and the label says which of them people preferred (`luthier.eval.pairs`)."""
    left: Mapping[str, int] = field(default_factory=dict)
    """Rows of the split that cannot be asked, by why."""

    @property
    def labels(self) -> list[str]:
        """The labels in order; none for texts."""
        return list(self.options)

    @property
    def references(self) -> list[str]:
        """The right answer of each row: its label, or the assistant's text."""
        return [example.label or "" if self.kind == "label" else answer_of(example) for example in self.examples]

    @property
    def digest(self) -> str:
        """Names the rows: two evaluations with the same digest asked the same questions."""
        asked = [
            [[message.model_dump(mode="json", exclude_defaults=True) for message in prompt_of(example)], reference]
            for example, reference in zip(self.examples, self.references, strict=True)
        ]
        offered = [offer_of(one).answers for one in self.examples] if self.pairs else []
        return digest_of([self.kind, dict(self.options), asked, *([offered] if offered else [])])

    def answers(self, replies: Sequence[Reply]) -> Answers:
        """A model's replies beside the references, as metrics read them."""
        return Answers.of(
            [reply.prediction for reply in replies],
            self.references,
            label_scores=_column([reply.scores for reply in replies]),
            logprobs=_column([reply.logprob for reply in replies]),
            tokens=_column([reply.reference_tokens for reply in replies]),
            columns=columns_of([reply.columns for reply in replies]),
            clusters=conversations([example.id for example in self.examples]),
        )

    def correct(self, replies: Sequence[Reply]) -> list[bool | None]:
        """Whether each reply is the right label; None for texts, where that is a matter of degree."""
        if self.kind == "text":
            return [None] * len(replies)
        return [reply.prediction == label for reply, label in zip(replies, self.references, strict=True)]


def choose(data: Artifact, split: str, limit: int | None, *, pairs: bool = False) -> Task:
    """Read the held-out rows; `limit` takes those whose ids sort first, which is a draw by content.

    With `pairs`, rows that all hold two answers are a task of telling which one people preferred.
    """
    from luthier.text.dataset import DatasetSummary, has_split, read_examples

    if not has_split(data, split):
        raise RecipeError(f"the data set has no split {split!r}", where=Where(field="split"))
    every = [example for example in read_examples(data, split) if example.messages]
    if not every:
        raise DataError(f"split {split!r} has no rows", remedy="set a larger share in the split of `prepare`")
    about = DatasetSummary.read(data)
    kept = {example.id for example in sorted(every, key=lambda example: example.id)[:limit]}
    examples = tuple(example for example in every if example.id in kept)
    if pairs and are_pairs(examples):
        ranked, left = labelled(examples)
        return Task(
            kind="label",
            split=split,
            examples=tuple(ranked),
            available=len(every),
            options=OPTIONS,
            pairs=True,
            left=left,
        )
    kind: TaskKind = "label" if about.task == "label" else "text"
    teachers = [*read_examples(data, "train"), *every] if kind == "label" else []
    options = said_for(about.labels, teachers) if kind == "label" else {}
    if kind == "label" and len(options) < 2:
        raise DataError(f"the data has {counted(len(options), 'label')}", remedy="a task of labels needs at least two")
    return Task(kind=kind, split=split, examples=examples, available=len(every), options=options)


def columns_of(rows: Sequence[Mapping[str, float | None] | None]) -> dict[str, list[float | None]]:
    """Numbers row by row as columns by name."""
    names = sorted({name for row in rows for name in row or {}})
    return {name: [(row or {}).get(name) for row in rows] for name in names}


def _column(values: list[Value | None]) -> list[Value] | None:
    """The values when every row has one."""
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None
