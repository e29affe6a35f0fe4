"""Asking contestants what is not in the held-out rows: what a probe does with a model.

What is asked goes in chunks, and each finished chunk is kept under a digest of who was asked what, so that a killed
evaluation goes on where it was and two probes that ask the same ask once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core.events import StepEvents
from luthier.eval import ask
from luthier.eval.kept import Kept
from luthier.eval.question import Likelihood as LikelihoodOf
from luthier.eval.question import Question, Reading, Told, Writing
from luthier.eval.rows import Reply, Task
from luthier.eval.voice import Choice, Continued, Likelihood, Plain, Verb, Voice, Written, plain_record

if TYPE_CHECKING:
    from luthier.text.messages import Example, Message

Item = TypeVar("Item")
TOGETHER: dict[type[Question], int] = {LikelihoodOf: 512, Reading: 16, Writing: 32}
"""Questions of a task that are put together, of each kind."""


@dataclass(frozen=True, kw_only=True)
class Respondent:
    """One contestant, asked chunk by chunk; finished chunks are kept in `kept`."""

    voice: Voice
    task: Task
    kept: Kept
    events: StepEvents

    @property
    def able(self) -> frozenset[Verb]:
        """The ways in which it can be asked."""
        return self.voice.able

    @property
    def is_model(self) -> bool:
        """Whether it is a language model, and no plain baseline."""
        return not isinstance(self.voice, Plain)

    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        """Answers to rows of the same task that are not held out, such as changed ones."""
        if not self.is_model:  # a baseline learns anew for each call, so it is called once
            return self.voice.answer(examples, self.task)
        settings = [self.task.kind, list(self.task.options.items())]
        told = self._chunks("answer", examples, partial(self.voice.answer, task=self.task), settings, vars)
        return [Reply(**values) for values in told]

    def score(self, asked: Sequence[Choice]) -> list[list[Likelihood]]:
        """The log-likelihood of each answer to each conversation."""
        return [[Likelihood(*one) for one in row] for row in self._chunks("score", asked, self.voice.score)]

    def likelihood(self, asked: Sequence[Continued]) -> list[list[Likelihood]]:
        """The log-likelihood of what may follow each plain text; after no text, of the whole option."""
        return [[Likelihood(*one) for one in row] for row in self._chunks("likelihood", asked, self.voice.likelihood)]

    def write(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The greedy answer to each conversation."""
        verb = partial(self.voice.write, max_new_tokens=max_new_tokens)
        return [Written(*one) for one in self._chunks("write", asked, verb, max_new_tokens)]

    def resume(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """How each conversation goes on, of which the last turn is the beginning of the assistant's answer."""
        verb = partial(self.voice.resume, max_new_tokens=max_new_tokens)
        return [Written(*one) for one in self._chunks("resume", asked, verb, max_new_tokens)]

    def tell(self, questions: Sequence[Question], about: str = "questions") -> list[Told]:
        """One answer to each question of a task; `about` says what they are about, for whoever watches."""
        found: list[Told] = []
        for chunk in _runs(questions):
            asked = [self.voice.digest, "tell", [one.as_json() for one in chunk]]
            told = self.kept.or_made(asked, partial(self._told, chunk))
            found += [Told(**values) for values in told]
            self.events.progress(len(found), len(questions), about, model=self.voice.name)
        return found

    def _told(self, chunk: Sequence[Question]) -> list[Any]:
        return [vars(one) for one in self.voice.tell(chunk)]

    def _chunks(
        self,
        name: Verb,
        asked: Sequence[Item],
        verb: Callable[[Sequence[Item]], Sequence[Any]],
        settings: Any = None,
        record: Callable[[Any], Any] = list,
    ) -> list[Any]:
        """Answers as they are kept, so that fresh ones and those of an earlier try are the same."""
        found: list[Any] = []
        for start in range(0, len(asked), ask.CHUNK):
            chunk = asked[start : start + ask.CHUNK]
            who = [self.voice.digest, name, settings, [plain_record(one) for one in chunk]]
            found += self.kept.or_made(who, partial(_recorded, verb, chunk, record))
            self.events.progress(len(found), len(asked), "questions", model=self.voice.name)
        return found


def _recorded(
    verb: Callable[[Sequence[Item]], Sequence[Any]], chunk: Sequence[Item], record: Callable[[Any], Any]
) -> list[Any]:
    return [record(one) for one in verb(chunk)]


def _runs(questions: Sequence[Question]) -> list[list[Question]]:
    """Runs of questions of one kind, of at most so many."""
    found = []
    for kind, run in groupby(questions, key=type):
        every = list(run)
        found += [every[start : start + TOGETHER[kind]] for start in range(0, len(every), TOGETHER[kind])]
    return found
