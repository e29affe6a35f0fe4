"""Benchmark of forgetting: plain questions that most models can answer, asked before and after tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from luthier.chat.messages import Message
from luthier.eval.task import DROP, AskModel, BenchmarkTask, EvalTask, TaskContext, TaskItem, TaskResult
from luthier.metrics.columns import WeightedColumn
from luthier.models.lm.base import LoglikelihoodRequest, Response

_WORDS = ("apple", "river", "seven", "chair", "green", "paper", "stone", "music", "cloud", "tiger")


class ForgettingQuestion(NamedTuple):
    """A question with its right answer and three wrong ones."""

    kind: str
    question: str
    right: str
    wrong: tuple[str, str, str]


@cache
def load_forgetting_questions() -> tuple[ForgettingQuestion, ...]:
    """All questions, in a fixed order."""
    return (*_written(), *_sums(), *_orders(), *_copies())


@cache
def count_question_characters() -> int:
    """How much there is to read, the answers included."""
    return sum(
        len(question.question) + len(question.right) + sum(map(len, question.wrong))
        for question in load_forgetting_questions()
    )


def _written() -> Iterator[ForgettingQuestion]:
    kind = ""
    for line in (Path(__file__).parents[1] / "tables/forgetting.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            kind = line[3:]
        elif line and not line.startswith("#"):
            question, right, *wrong = line.split(" | ")
            first, second, third = wrong
            yield ForgettingQuestion(kind, question, right, (first, second, third))


def _sums() -> Iterator[ForgettingQuestion]:
    for number in range(20):
        a, b = 2 + number % 9, 3 + (number * 7) % 8
        added = number % 2 == 0
        question = f"What is {a} plus {b}?" if added else f"What is {a + b} minus {b}?"
        right = a + b if added else a
        yield ForgettingQuestion(
            "sums", question, str(right), (str(right + 1), str(right + 10), str(max(0, right - 2)))
        )


def _orders() -> Iterator[ForgettingQuestion]:
    """Which number comes next, by one, by two, by five or by ten."""
    for number in range(12):
        step, begin = (1, 2, 5, 10)[number % 4], 1 + 2 * number
        shown = ", ".join(str(begin + step * index) for index in range(4))
        right = begin + 4 * step
        wrong = (str(right + 3 * step + 1), str(begin), str(right + 17))
        yield ForgettingQuestion("orders", f"Which number comes next: {shown}?", str(right), wrong)


def _copies() -> Iterator[ForgettingQuestion]:
    """A few words that are to be said again."""
    for number in range(20):
        first, second, third = (_WORDS[(number + shift) % 10] for shift in (0, 3 + number // 10, 7))
        right = f"{first} {second} {third}"
        wrong = (f"{first} {third} {second}", f"{third} {second} {first}", f"{second} {first} {third}")
        yield ForgettingQuestion("copies", f"Say these three words again in the same order: {right}", right, wrong)


@dataclass(frozen=True, kw_only=True)
class _Questions(BenchmarkTask):
    """Four answers a question, the right one first; the likeliest counts as the model's, of equals the last, so that a
    model which tells no answer from another is right in nothing."""

    version: ClassVar[int] = 2

    def run(self, ask: AskModel) -> TaskResult:
        answers = iter(ask(self.questions))
        rows = [[next(answers) for _ in item.questions] for item in self.items]
        cut = sum(any(response.truncated for response in row) for row in rows)
        return replace(self.grade(rows), cut=cut)

    def grade(self, responses: Sequence[Sequence[Response]]) -> TaskResult:
        """Scores from the answers to each row's questions."""
        sums = [[response.logprob or 0.0 for response in own] for own in responses]
        chosen = [max(range(len(own)), key=lambda at: (own[at], at)) for own in sums]
        believed = [1 / sum(math.exp(entry - own[0]) for entry in own) for own in sums]
        columns = {
            "acc": WeightedColumn.of("share", [float(at == 0) for at in chosen]),
            "share": WeightedColumn.of("mean", believed),
        }
        predictions = [item.questions[at].continuation for item, at in zip(self.items, chosen, strict=True)]  # type: ignore[union-attr]  # all ask for likelihoods
        return TaskResult(columns=columns, predictions=predictions)


class Forgetting(EvalTask):
    """Some 170 plain questions about the world, nature, words, everyday things, sums, orders and copies.

    Each has four answers, put through the chat template; the likeliest counts. `forgetting.acc`
    is the share of right ones, `forgetting.share` how much of its belief a model gives to the right answer, and
    `forgetting.drop` what the tuned model lost of the first against its base, in pairs. The questions were written for
    this purpose and come with Luthier.
    """

    kind: Literal["forgetting"] = "forgetting"

    def measured(self) -> tuple[str, ...]:
        return "forgetting.acc", "forgetting.share", f"forgetting.{DROP}"

    def benchmarks(self, task_context: TaskContext) -> list[BenchmarkTask]:
        """The questions."""

        found = []
        for number, question in enumerate(load_forgetting_questions()):
            prompt = (Message(role="user", content=question.question),)
            questions = tuple(
                LoglikelihoodRequest(prompt=prompt, continuation=answer) for answer in (question.right, *question.wrong)
            )
            found.append(
                TaskItem(
                    id=f"{question.kind}-{number}",
                    questions=questions,
                    shown=question.question,
                    reference=question.right,
                )
            )
        return [_Questions(name="forgetting", items=tuple(found), about="chat|likeliest")]
