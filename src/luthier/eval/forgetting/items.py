"""The questions: those that are written down, and sums, orders and copies that are counted out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
    for line in Path(__file__).with_name("items.txt").read_text(encoding="utf-8").splitlines():
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
