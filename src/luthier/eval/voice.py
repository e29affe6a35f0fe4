"""How a contestant can be asked, whatever it is: a model whose weights are here, one behind an endpoint, a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.core.errors import ModelError
from luthier.eval.question import Question, Told
from luthier.eval.rows import Reply, Task

if TYPE_CHECKING:
    from luthier.eval.baseline import Baseline
    from luthier.text.messages import Example, Message

Verb = Literal["answer", "score", "likelihood", "write", "resume", "tell"]
"""What may be asked of a contestant; each is a method of `Voice`."""


class Choice(NamedTuple):
    """A conversation and the answers to choose from."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]


class Continued(NamedTuple):
    """A plain text, without any chat template, and what may follow it."""

    before: str
    options: tuple[str, ...]


class Likelihood(NamedTuple):
    """A summed natural log-probability, and over how many tokens."""

    logprob: float
    tokens: int


class Written(NamedTuple):
    """What a model wrote."""

    text: str
    tokens: int | None
    finished: bool
    """Whether it ended by itself, rather than at the limit."""


class Voice(ABC):
    """One contestant that can be asked; `able` says in which ways."""

    name: str
    title: str
    able: frozenset[Verb]
    digest: str
    """Names all that decides its answers."""

    @abstractmethod
    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """Answers to rows of a task, as to the held-out ones."""

    def score(self, asked: Sequence[Choice]) -> list[list[Likelihood]]:
        """The log-likelihood of each answer to each conversation."""
        raise self._cannot("score given answers")

    def likelihood(self, asked: Sequence[Continued]) -> list[list[Likelihood]]:
        """The log-likelihood of what may follow each plain text; after no text, of the whole option."""
        raise self._cannot("give the log-likelihood of a text")

    def write(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The greedy answer to each conversation."""
        raise self._cannot("write")

    def resume(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """How each conversation goes on, of which the last turn is the beginning of the assistant's answer."""
        raise self._cannot("go on with a begun answer")

    def tell(self, questions: Sequence[Question]) -> list[Told]:
        """One answer to each question of a task; all are of one kind."""
        raise self._cannot("answer the questions of a task")

    def _cannot(self, what: str) -> ModelError:
        return ModelError(f"{self.title} cannot {what}", remedy="ask only for what is in `able`")


class Plain(Voice):
    """A baseline that has its training rows."""

    able: frozenset[Verb] = frozenset({"answer"})

    def __init__(self, baseline: Baseline, learnt: Sequence[Example]) -> None:
        from luthier.core.digest import digest_of

        self.name, self.title = baseline.kind, baseline.title
        self.digest = digest_of([baseline.settings(), [example.id for example in learnt]])
        self._baseline, self._learnt = baseline, learnt

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """Learn, and answer rows of a task."""
        from dataclasses import replace

        return self._baseline.answer(self._learnt, replace(task, examples=tuple(examples)))


def plain_record(value: Any) -> Any:
    """What is asked, as JSON: messages without defaults, tuples as lists."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, tuple | list):
        return [plain_record(item) for item in value]
    return value
