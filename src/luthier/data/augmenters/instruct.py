"""New rows from seeds: a model sees a few rows and writes another, or makes one of them harder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.data.augment.alone import alone
from luthier.data.augment.ask import choose_options, draw_completions
from luthier.data.augmenter import Around, Augmenter, Draft, Train, Wish, last_asked, with_last_asked
from luthier.data.row import Row
from luthier.data.twins.near import Index
from luthier.models.lm.base import LanguageModel, Response
from luthier.text.dataset import MADE
from luthier.text.messages import Message

ALIKE = """Here are messages{about}:

{shown}

Write one more message of this kind{about}. It must ask for something else, in other words, and be as long as these. \
Answer with the message alone."""
WAYS = (
    ("added a condition", "adding one more condition or requirement"),
    ("went deeper", "asking for more depth about the same matter"),
    ("made it concrete", "putting something more concrete in the place of something general"),
    ("asked for more steps", "so that several steps are needed to deal with it"),
    ("moved it aside", "about a rarer case of the same kind"),
)
"""Evol-Instruct's four ways in depth and its way in breadth (Xu et al. 2023), in words of our own."""
EVOLVE = """Rewrite the message below, {way}. It must stay clear and be of about the same length. \
Answer with the new message alone.

{text}"""
JUDGE = """Is the message below clear, complete, and possible to deal with{about}? Answer yes or no.

{text}"""
JUDGE_ANSWER = """Here is a question and an answer to it. Is the answer right, complete, and of use? Answer yes or no.

Question: {text}

Answer: {answer}"""


class _Seeds(NamedTuple):
    """The training rows of each class, and an index of all of them."""

    places: dict[str, list[int]]
    near: Index


class Instruct(Augmenter):
    """Let the step's model write new rows out of training rows, with a judge and a filter of likeness.

    `self_instruct` shows `shots` rows (of one class, when there are classes) and asks for one more (Wang et al. 2023);
    `evolve` asks for a harder form of one row (Xu et al. 2023). Of free text, the model then answers what it asked.
    Rows that are like any training row, or that the judge does not pass, are refused.
    """

    kind: Literal["instruct"] = "instruct"
    asks: ClassVar[bool] = True

    style: Literal["self_instruct", "evolve"] = "self_instruct"
    """New rows in the manner of some, or harder forms of one."""
    shots: Annotated[int, Field(ge=1, le=20)] = 4
    """Rows that are shown for one new one (`self_instruct`)."""
    apart: Annotated[float, Field(ge=0.5, le=1)] = 0.7
    """Similarity to any training row, as `near_dedup` measures it, from which a row is not new."""
    judge: bool = True
    """Whether the model is asked, yes or no, if what it wrote is clear, fits its class, and is answered well."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.9
    """How freely words are drawn; 0 always takes the likeliest."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest message and longest answer; what is cut off there is refused."""

    def write(self, wishes: Sequence[Wish], around: Around) -> list[Draft | None]:
        """A new row for each wish."""
        lm, seeds = around.model(self), around.once(self, self._learn)
        shown = [self._shown(wish, around.train, seeds) for wish in wishes]
        asked = [self._asked(wish, rows) for wish, rows in zip(wishes, shown, strict=True)]
        told = [(Message(role="user", content=content),) for content, _ in asked]
        said = self._write(lm, told, [wish.seed for wish in wishes])
        finished = [one.finished for one in said]
        rows = [with_last_asked(wish.row, alone(one.text)) for wish, one in zip(wishes, said, strict=True)]
        self._answer(lm, wishes, rows, finished)
        doubts = self._doubts(lm, wishes, rows, seeds)
        return [
            Draft(messages, (did,), tuple(row.id for row in others), done, {}, True, doubt)
            for messages, (_, did), others, done, doubt in zip(rows, asked, shown, finished, doubts, strict=True)
        ]

    def _learn(self, train: Train) -> _Seeds:
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, row in enumerate(train.rows()):
            if MADE not in row.meta:
                places[_class(row)].append(place)
        return _Seeds(dict(places), Index(self.apart, train.rows(), train.row))

    def _shown(self, wish: Wish, train: Train, seeds: _Seeds) -> list[Row]:
        """The rows that are shown beside the wish's own."""
        if self.style == "evolve":
            return []
        pool = seeds.places.get(_class(wish.row), [])
        drawn = [train.row(place) for place in wish.chance.sample(pool, min(len(pool), self.shots))]
        return [row for row in drawn if row.id != wish.row.id][: self.shots - 1]

    def _asked(self, wish: Wish, others: Sequence[Row]) -> tuple[str, str]:
        """What the model is told, and what that is called."""
        if self.style == "evolve":
            did, way = wish.chance.choice(WAYS)
            return EVOLVE.replace("{way}", way).replace("{text}", last_asked(wish.row)[1]), did
        shown = "\n".join(f"- {' '.join(last_asked(row)[1].split())}" for row in (wish.row, *others))
        text = ALIKE.replace("{about}", _about(wish.row)).replace("{shown}", shown)
        return text, f"written after {len(others) + 1} rows"

    def _answer(
        self, lm: LanguageModel, wishes: Sequence[Wish], rows: list[tuple[Message, ...]], finished: list[bool]
    ) -> None:
        """Put the model's answer to its new question into rows of free text."""
        places = [place for place, wish in enumerate(wishes) if _is_answered(wish.row)]
        if not places:
            return
        said = self._write(lm, [rows[place][:-1] for place in places], [wishes[place].seed ^ 1 for place in places])
        for place, one in zip(places, said, strict=True):
            rows[place] = (*rows[place][:-1], Message(role="assistant", content=one.text.strip()))
            finished[place] = finished[place] and one.finished

    def _doubts(
        self, lm: LanguageModel, wishes: Sequence[Wish], rows: Sequence[tuple[Message, ...]], seeds: _Seeds
    ) -> list[str]:
        """Why each new row should not be taken: it is like another, or the judge says no."""
        made = [replace(wish.row, messages=messages) for wish, messages in zip(wishes, rows, strict=True)]
        near = seeds.near.nearest_of(made)
        doubts = ["" if twin is None else f"like a training row: {twin.similarity:.0%}" for twin in near]
        judged = [place for place, doubt in enumerate(doubts) if self.judge and not doubt]
        if judged:
            asked = [(Message(role="user", content=_judged(made[place])),) for place in judged]
            said = choose_options(lm, asked, ["yes", "no"])
            for place, verdict in zip(judged, said, strict=True):
                doubts[place] = "" if verdict == "yes" else "the judge says no"
        return doubts

    def _write(self, lm: LanguageModel, asked: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[Response]:
        return draw_completions(lm, asked, seeds, max_tokens=self.max_tokens, temperature=self.temperature)


def _class(row: Row) -> str:
    return row.answer if row.kind == "label" else ""


def _is_answered(row: Row) -> bool:
    """Whether a row's answer is free text to a question, so that a new question wants a new one."""
    return row.kind != "label" and len(row.messages) > 1


def _about(row: Row) -> str:
    return f" about `{row.answer}`" if row.kind == "label" else ""


def _judged(row: Row) -> str:
    """What the judge is asked about a row."""
    text = last_asked(row)[1]
    if not _is_answered(row):
        about = f", and is it{_about(row)}" if _about(row) else ""
        return JUDGE.replace("{about}", about).replace("{text}", text)
    return JUDGE_ANSWER.replace("{text}", text).replace("{answer}", row.answer)
