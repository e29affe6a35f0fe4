"""A bench for probes: tickets of people, tiny models and a plain baseline to be asked, or a made-up voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.evaluations import base_model, dataset, example, tuned_model
from luthier.core.artifact import Artifact
from luthier.core.events import Events
from luthier.core.store import Store
from luthier.eval.ask import Desk, Model, Question
from luthier.eval.baseline import Baseline
from luthier.eval.kept import Kept
from luthier.eval.probe import Bench
from luthier.eval.respondent import Respondent
from luthier.eval.rows import Reply, Task, choose
from luthier.eval.voice import Choice, Continued, Likelihood, Plain, Verb, Voice, Written
from luthier.text.messages import Example, Message, question_of
from workshop import tickets

QUESTION = Question(normalise="sum", max_new_tokens=8, dtype="float32", likelihood=False)
WHO = ("My husband says:", "My wife says:", "As a customer I say:")


def people(count: int = 90) -> list[Example]:
    """Tickets of men, women and others, in two regions."""
    return [
        example(f"{WHO[n % 3]} {row['message']}", row["category"], row["category"], n, region=("north", "south")[n % 2])
        for n, row in enumerate(tickets(count))
    ]


def pairs_of(store: Store) -> Artifact:
    """60 tickets with the right answer and another, longer or marked up, to learn from, and 30 held out."""
    rows = [
        one.model_copy(update={"label": None, "kind": "preference", "meta": {"rejected": _other(one, at)}})
        for at, one in enumerate(people())
    ]
    return dataset(store, rows[:60], rows[60:])


def _other(one: Example, at: int) -> str:
    """An answer that is not preferred."""
    wrong = "delivery" if one.label == "billing" else "billing"
    return wrong if at % 3 else f"- **{wrong}**, or so I think"


def data_of(store: Store) -> Artifact:
    """60 tickets to learn from, 30 held out."""
    rows = people()
    return dataset(store, rows[:60], rows[60:])


class Said(Voice):
    """A voice whose answers a function makes."""

    able: frozenset[Verb] = frozenset({"answer", "score", "likelihood", "write", "resume"})

    def __init__(
        self, name: str, says: Callable[[str], str], options: Callable[[str, str], float] | None = None
    ) -> None:
        self.name = self.digest = name
        self.title = f"the {name} model"
        self._says, self._options = says, options or (lambda before, option: -float(len(option)))

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """The function's answer to what the user wrote, nine times as likely as all others."""
        return [self._reply(self._says(question_of(one)), task) for one in examples]

    def _reply(self, said: str, task: Task) -> Reply:
        if task.kind == "text":
            return Reply(prediction=said, tokens=1, finished=True)
        return Reply(prediction=said, scores={label: 0.0 if label == said else -2.1972245773 for label in task.labels})

    def score(self, asked: Sequence[Choice]) -> list[list[Likelihood]]:
        """The other function's score of each option after the last message."""
        return [[Likelihood(self._options(one.messages[-1].content, o), 1) for o in one.options] for one in asked]

    def likelihood(self, asked: Sequence[Continued]) -> list[list[Likelihood]]:
        """The same of plain texts."""
        return [[Likelihood(self._options(one.before, o), 1) for o in one.options] for one in asked]

    def write(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The function's answer to the last message."""
        return [Written(self._says(messages[-1].content), 1, True) for messages in asked]

    def resume(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The same, after what was begun."""
        return self.write(asked, max_new_tokens)


def bench_of(data: Artifact, folder: Path, *voices: Voice, model: Artifact | None = None, seed: int = 5) -> Bench:
    """Voices that have answered the held-out rows, the first of them the one that the evaluation is about."""
    task = choose(data, "test", None, pairs=True)
    events = Events([].append).of("report")
    return Bench(
        task=task,
        answers={voice.name: task.answers(voice.answer(task.examples, task)) for voice in voices},
        seed=seed,
        data=data,
        model=model,
        respondents={one.name: Respondent(voice=one, task=task, kept=Kept(folder), events=events) for one in voices},
    )


def real_voices(store: Store, data: Artifact) -> list[Voice]:
    """The tiny tuned model, its base, and TF-IDF."""
    from luthier.text.dataset import read_examples

    desk, base = Desk(), base_model(store)
    tuned = tuned_model(store, base)
    named: list[Any] = [("tuned", tuned), ("base", base)]
    models: list[Voice] = [Model(one, QUESTION, desk, name=name, title=f"the {name} model") for name, one in named]
    train = list(read_examples(data, "train"))
    return [*models, Plain(Baseline.parse("tfidf" if any(one.label for one in train) else "length"), train)]
