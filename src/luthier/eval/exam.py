"""What a task comes to: rows with questions, and how a model's answers become scores of every row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.core.digest import digest_of
from luthier.metrics.columns import Scores
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response, RollingRequest
from luthier.text.messages import Message, as_openai


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row of a task: its questions, and what is shown of it."""

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
class Graded:
    """A model's scores on a task, and what it said in each row."""

    columns: Mapping[str, Scores]
    """By the score's name, the most important first."""
    said: Sequence[str]
    cut: int = 0
    """Rows whose prompt was too long for the model and lost its beginning."""


@dataclass(frozen=True, kw_only=True)
class Exam(ABC):
    """Rows to be asked, and how they are graded."""

    version: ClassVar[int] = 1
    """Goes up whenever the same answers would get other scores."""

    name: str
    """What its scores are called by: `NAME.acc`."""
    items: tuple[Item, ...]
    groups: tuple[str, ...] = ()
    """Sets of exams that it belongs to: the rows of all of them together get scores of the set's name too."""
    about: str = ""
    """How it is asked, in a few words, for the signature."""

    @abstractmethod
    def grade(self, told: Sequence[Sequence[Response]]) -> Graded:
        """Scores from the answers to each row's questions."""

    @property
    def questions(self) -> list[Request]:
        """All rows' questions in order."""
        return [question for item in self.items for question in item.questions]

    @property
    def signature(self) -> str:
        """Names the questions and the grading: numbers with different signatures must not be compared."""
        asked = digest_of([[_named(one) for one in self.questions], [item.gold for item in self.items]])
        return f"{self.name}|v:{self.version}|{self.about}|rows:{len(self.items)}|asked:{asked[:12]}"

    def graded(self, told: Sequence[Response]) -> Graded:
        """Scores from the answers to `questions`."""
        answers, rows = iter(told), []
        for item in self.items:
            rows.append([next(answers) for _ in item.questions])
        found = self.grade(rows)
        cut = sum(any(one.truncated for one in row) for row in rows)
        return Graded(columns=found.columns, said=found.said, cut=cut)


def _named(request: Request) -> list[Any]:
    """What names a request in a signature."""
    match request:
        case LoglikelihoodRequest():
            return ["likelihood", _plain(request.prompt), request.continuation, request.greedy]
        case RollingRequest():
            return ["reading", request.text]
        case GenerateRequest():
            how = [request.max_tokens, list(request.stop), request.temperature, request.top_p]
            return ["writing", _plain(request.prompt), *how]


def _plain(prompt: str | tuple[Message, ...]) -> Any:
    return prompt if isinstance(prompt, str) else as_openai(prompt)
