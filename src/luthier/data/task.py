"""Is an answer one of a few classes, or free text?"""

from __future__ import annotations

from array import array
from typing import Literal, NamedTuple

from luthier.chat.messages import ExampleKind

Task = Literal["label", "text"]

MOST_CLASSES = 200
LONGEST_CHARS = 64
LONGEST_WORDS = 8


class TaskDecision(NamedTuple):
    """The task, and what spoke for it."""

    task: Task
    why: str


class AnswerCounter:
    """Counts distinct short answers as rows go by, and gives up when they cannot be classes."""

    def __init__(self, most: int = MOST_CLASSES) -> None:
        self._most = most
        self._codes: dict[str, int] = {}
        self.of_rows = array("h")
        """For each row, the number of its answer; none of any row once counting was given up."""
        self.is_given_up = False
        """Whether there were too many different answers to count them all."""
        self.rows = 0
        self.not_a_class = ""
        """The first thing that no class can be, as a sentence."""

    def add(self, answer: str, kind: ExampleKind) -> None:
        """Count one answer of a row of some kind."""
        self.rows += 1
        if len(self._codes) > self._most:
            self._give_up()
        else:
            self.of_rows.append(self._codes.setdefault(answer, len(self._codes)))
        if not self.not_a_class:
            self.not_a_class = self._objection(answer, kind)

    @property
    def is_settled(self) -> bool:
        """Whether no further answer changes anything: there are too many, and it is known why they are no classes."""
        return bool(self.not_a_class) and len(self._codes) > self._most

    def pass_over(self, rows: int) -> None:
        """Count rows whose answers do not matter any more."""
        self.rows += rows
        if rows:
            self._give_up()

    def _give_up(self) -> None:
        """Forget the answers of rows: as classes, they are too many."""
        self.is_given_up = True
        del self.of_rows[:]

    def _objection(self, answer: str, kind: ExampleKind) -> str:
        if kind != "chat":
            return "some rows have tools" if kind == "tool" else "some rows are text to continue, without a question"
        if answer.startswith("{") and answer.endswith("}"):
            return "some answers are JSON"
        if len(answer) > LONGEST_CHARS or len(answer.split()) > LONGEST_WORDS or "\n" in answer.strip():
            return f"some answers are longer than {LONGEST_WORDS} words or {LONGEST_CHARS} characters"
        return f"there are more than {self._most} different answers" if len(self._codes) > self._most else ""

    @property
    def distinct(self) -> int:
        """Different answers so far."""
        return len(self._codes)

    @property
    def labels(self) -> list[str]:
        """The answers by number."""
        return list(self._codes)

    def decide(self) -> TaskDecision:
        """Classes when the answers are short, few, and come again."""
        if self.not_a_class:
            return TaskDecision("text", self.not_a_class)
        few = self.distinct * 4 <= self.rows or (self.distinct <= 10 and self.distinct * 2 <= self.rows)
        counts = f"{self.distinct} different short answers in {self.rows} rows"
        return TaskDecision("label", counts) if few else TaskDecision("text", f"{counts}: too many to be classes")
