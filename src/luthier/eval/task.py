"""Evaluation tasks: the role `task`, and held-out rows, conversation turns and answer pairs as tasks.

A task is asked beside the held-out rows: a benchmark, a standing set, or conversations turn by turn. It returns rows
with prompts and turns completions into scores of each row.

In a conversation the model answers each assistant turn after the true history. The turns become rows `ID/1`, `ID/2`, …
of one group, so intervals and tests resample conversations, not turns.

A held-out preference pair asks which of two answers people preferred. The row's id decides whether the preferred answer
stands first or second, so a model that always gives the same reply is right on half of the rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from luthier.chat.messages import (
    Message,
    answer_of,
    answer_text_by_label,
    messages_to_openai,
    prompt_of,
    render_message_text,
)
from luthier.chat.preference import PreferencePair, is_pair, pair_of
from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.hashing import digest_of
from luthier.metrics.columns import RowScores
from luthier.metrics.metric import EvalPredictions
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response, RollingLoglikelihoodRequest

if TYPE_CHECKING:
    from luthier.chat.messages import Example


@dataclass(frozen=True, kw_only=True)
class TaskItem:
    """One row of a benchmark task: its requests, its text for readers, and the gold answer."""

    id: str
    """Names the row within its task."""
    questions: tuple[Request, ...]
    shown: str
    """What was asked, for a reader."""
    reference: str
    """The right answer, for a reader."""
    gold: Any = None
    """What the grading compares with: plain JSON."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A model's scores on a benchmark task, and its answer to each row."""

    columns: Mapping[str, RowScores]
    """By the score's name, the most important first."""
    predictions: Sequence[str]
    cut: int = 0
    """Rows whose prompt was too long for the model and lost its beginning."""


AskModel = Callable[[Sequence[Request]], list[Response]]
"""Puts requests of one kind to a model, as one list."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkTask(ABC):
    """A benchmark task: its items, and how answers are graded."""

    version: ClassVar[int] = 1
    """Goes up whenever the same answers would get other scores."""

    name: str
    """What its scores are called by: `NAME.acc`."""
    items: tuple[TaskItem, ...]
    groups: tuple[str, ...] = ()
    """Sets of benchmarks that it belongs to: the rows of all of them together get scores of the set's name too."""
    equal_groups: frozenset[str] = frozenset()
    """Those of them whose score is the mean of their benchmarks' scores, however many rows each has."""
    about: str = ""
    """How it is asked, in a few words, for the signature."""

    @abstractmethod
    def run(self, ask: AskModel) -> TaskResult:
        """Put the questions to a model, and score its answers."""

    @property
    def questions(self) -> list[Request]:
        """All rows' questions in order."""
        return [question for item in self.items for question in item.questions]

    @property
    def signature(self) -> str:
        """Names the questions and the grading: numbers with different signatures must not be compared."""
        questions_digest = digest_of(
            [[_named(question) for question in self.questions], [item.gold for item in self.items]]
        )
        return f"{self.name}|v:{self.version}|{self.about}|rows:{len(self.items)}|asked:{questions_digest[:12]}"


def _named(request: Request) -> list[Any]:
    """What names a request in a signature."""
    match request:
        case LoglikelihoodRequest():
            ends = [] if request.end_token else ["no end"]
            return ["likelihood", _plain(request.prompt), request.continuation, request.greedy, *ends]
        case RollingLoglikelihoodRequest():
            return ["reading", request.text]
        case GenerateRequest():
            how = [request.max_tokens, list(request.stop), request.temperature, request.top_p]
            return ["writing", _plain(request.prompt), *how]


def _plain(prompt: str | tuple[Message, ...]) -> Any:
    return prompt if isinstance(prompt, str) else messages_to_openai(prompt)


DROP = "drop"
"""What a model lost of a task's main score: the base's less the tuned model's."""
SCORES = frozenset(
    {
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_all",
        "acc_mutual_info",
        "likelihood",
        "exact_match",
        "brier_score",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "share",
        "f1",
        "mcc",
        "bleu",
        "chrf",
        "ter",
        DROP,
    }
)
"""What the scores of tasks are called, after the task's name and a point."""


@dataclass(frozen=True, kw_only=True)
class TaskContext(RunContext):
    """What a benchmark task may use to build its items: the recipe's folder and the held-out examples."""

    examples: Sequence[Example]
    """The user's held-out rows."""


class EvalTask(Component):
    """Questions that every language model of an evaluation answers, graded row by row and compared in pairs."""

    role: ClassVar[str] = "task"
    home: ClassVar[str] = "luthier.eval.tasks"

    @abstractmethod
    def benchmarks(self, task_context: TaskContext) -> list[BenchmarkTask]:
        """What is asked; one task may hold several sets of rows."""

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use; None when only the task's own file can tell."""
        return None


Turns = Literal["last", "all"]
_MARK = "/"


def get_conversation_id(row: str) -> str:
    """The id of the example that a row is of."""
    return row.split(_MARK, 1)[0]


def list_conversation_ids(rows: Sequence[str]) -> list[str] | None:
    """The conversation of each row; None when rows are whole examples, each for itself."""
    return [get_conversation_id(row) for row in rows] if any(_MARK in row for row in rows) else None


def group_by_conversation(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """The rows of one conversation after those of the other; rows that are whole examples one by one."""
    for _, run in groupby(examples, key=lambda example: get_conversation_id(example.id)):
        yield list(run)


def expand_task_turns(task: HeldOutTask) -> HeldOutTask:
    """The same conversations with a row for each turn of the assistant's that is to be learnt and says something."""
    if task.kind == "label":
        what = "`turns: all` asks every turn of conversations, and this data holds labels, which the last turn says"
        raise RecipeError(what, where=SourceLocation(field="turns"), hint="leave `turns` out")
    return replace(task, examples=tuple(turn for example in task.examples for turn in _turns(example)))


def expand_example_turns(examples: Iterable[Example]) -> Iterator[Example]:
    """Each example, and after it its turns: whichever of them a row of an evaluation is of bears the row's id."""
    for example in examples:
        yield example
        yield from _turns(example)


def find_last_turns(task: HeldOutTask) -> list[int]:
    """Row numbers of each conversation's last turn."""
    lasts = {get_conversation_id(example.id): row for row, example in enumerate(task.examples)}
    return list(lasts.values())


def count_skipped_turns(examples: Sequence[Example]) -> int:
    """Count the assistant turns that are not evaluated: those without content, or masked from training."""
    turn_count = sum(message.role == "assistant" for example in examples for message in example.messages)
    return turn_count - sum(len(_turns(example)) for example in examples)


def _turns(example: Example) -> list[Example]:
    ends = [
        index + 1
        for index, message in enumerate(example.messages)
        if message.role == "assistant" and message.learn and render_message_text(message).strip()
    ]
    return [
        example.model_copy(update={"id": f"{example.id}{_MARK}{number}", "messages": example.messages[:end]})
        for number, end in enumerate(ends, 1)
    ]


FIRST, SECOND = "first", "second"
OPTIONS = {FIRST: FIRST, SECOND: SECOND}


class AnswerPair(NamedTuple):
    """A prompt with two answers in the order in which they are shown."""

    prompt: tuple[Message, ...]
    answers: tuple[str, str]


def has_preference_pairs(examples: Sequence[Example]) -> bool:
    """Whether every row holds two answers."""
    return bool(examples) and all(map(is_pair, examples))


def label_preference_pairs(examples: Sequence[Example]) -> tuple[list[Example], Counter[str]]:
    """The rows of which one answer can be preferred, each with where that one stands; and why others are left out."""
    found: list[Example] = []
    left: Counter[str] = Counter()
    for example in examples:
        if isinstance(pair := pair_of(example), PreferencePair):
            found.append(example.model_copy(update={"label": FIRST if _chosen_is_first(example) else SECOND}))
        else:
            left[pair] += 1
    if not found:
        why = "; ".join(f"{format_counted_noun(count, 'row')}: {reason}" for reason, count in sorted(left.items()))
        raise DataError(f"no held-out pair can be ranked ({why})", where=SourceLocation(field="data"))
    return found, left


def build_answer_pair(example: Example) -> AnswerPair:
    """What is asked of a row of `label_preference_pairs`."""
    pair = pair_of(example)
    assert isinstance(pair, PreferencePair), "rows without two answers were left out"
    answers = (pair.chosen.content, pair.rejected.content)
    return AnswerPair(pair.prompt, answers if _chosen_is_first(example) else (answers[1], answers[0]))


def _chosen_is_first(example: Example) -> bool:
    return int(digest_of(example.id)[:2], 16) % 2 == 0


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
    """The type of the answers that rows ask for, known before they are read."""

    kind: TaskKind
    pairs: bool = False
    """Whether each row holds two answers, of which one is chosen."""


@dataclass(frozen=True, kw_only=True)
class HeldOutTask:
    """The held-out rows of a data set as an evaluation task: examples, references and label options."""

    kind: TaskKind
    split: str
    examples: tuple[Example, ...]
    available: int
    """Rows of the split, of which `examples` may be a part."""
    options: Mapping[str, str]
    """For labels: what the assistant says for each, in the order of the labels."""
    pairs: bool = False
    """Whether each row holds two answers, and the label says which of them people preferred (`luthier.eval.task`)."""
    left: Mapping[str, int] = field(default_factory=dict)
    """Rows of the split that cannot be asked, by why."""
    read_media: Callable[[str], bytes] | None = field(default=None, compare=False, repr=False)
    """Gives the bytes of what rows show and play, by digest; None: they are not at hand."""

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
        questions = [
            [[message.model_dump(mode="json", exclude_defaults=True) for message in prompt_of(example)], reference]
            for example, reference in zip(self.examples, self.references, strict=True)
        ]
        offered = [build_answer_pair(entry).answers for entry in self.examples] if self.pairs else []
        return digest_of([self.kind, dict(self.options), questions, *([offered] if offered else [])])

    def answers(self, replies: Sequence[Reply]) -> EvalPredictions:
        """A model's replies beside the references, as metrics read them."""
        return EvalPredictions.of(
            [reply.prediction for reply in replies],
            self.references,
            label_scores=_column([reply.scores for reply in replies]),
            logprobs=_column([reply.logprob for reply in replies]),
            tokens=_column([reply.reference_tokens for reply in replies]),
            columns=rows_to_columns([reply.columns for reply in replies]),
            clusters=list_conversation_ids([example.id for example in self.examples]),
        )

    def correct(self, replies: Sequence[Reply]) -> list[bool | None]:
        """Whether each reply is the right label; None for texts, where that is a matter of degree."""
        if self.kind == "text":
            return [None] * len(replies)
        return [reply.prediction == label for reply, label in zip(replies, self.references, strict=True)]


def read_held_out_task(data: Artifact, split: str, limit: int | None, *, pairs: bool = False) -> HeldOutTask:
    """Read the held-out rows; `limit` takes those whose ids sort first, which is a draw by content.

    With `pairs`, rows that all hold two answers are a task of telling which one people preferred.
    """
    from luthier.artifacts.dataset import DatasetSummary, has_split, read_examples
    from luthier.artifacts.media import MediaReader

    if not has_split(data, split):
        raise RecipeError(f"the data set has no split {split!r}", where=SourceLocation(field="split"))
    every = [example for example in read_examples(data, split) if example.messages]
    if not every:
        raise DataError(f"split {split!r} has no rows", hint="set a larger share in the split of `prepare`")
    about = DatasetSummary.read(data)
    kept = {example.id for example in sorted(every, key=lambda example: example.id)[:limit]}
    examples = tuple(example for example in every if example.id in kept)
    if pairs and has_preference_pairs(examples):
        ranked, left = label_preference_pairs(examples)
        return HeldOutTask(
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
    options = answer_text_by_label(about.labels, teachers) if kind == "label" else {}
    if kind == "label" and len(options) < 2:
        raise DataError(
            f"the data has {format_counted_noun(len(options), 'label')}", hint="a task of labels needs at least two"
        )
    return HeldOutTask(
        kind=kind, split=split, examples=examples, available=len(every), options=options,
        read_media=MediaReader(data).read,
    )  # fmt: skip


def rows_to_columns(rows: Sequence[Mapping[str, float | None] | None]) -> dict[str, list[float | None]]:
    """Numbers row by row as columns by name."""
    names = sorted({name for row in rows for name in row or {}})
    return {name: [(row or {}).get(name) for row in rows] for name in names}


def _column(values: list[Value | None]) -> list[Value] | None:
    """The values when every row has one."""
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None
