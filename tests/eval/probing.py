"""A bench for probes: tickets of people, tiny models and a plain baseline to be asked, or a made-up voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.evaluations import base_model, dataset, example, tuned_model
from luthier.chat.messages import Example, Message, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.events import RunEventEmitter
from luthier.core.store import Store
from luthier.eval.baseline import Baseline
from luthier.eval.cached_model import CachedEvalModel
from luthier.eval.local_model import InferenceSettings, LocalEvalModel, open_answer_cache
from luthier.eval.media_ablation import EvalMedia
from luthier.eval.model import EvalModel, TrainedBaseline
from luthier.eval.probe import ProbeContext
from luthier.eval.task import HeldOutTask, Reply, read_held_out_task
from luthier.models.lm.base import Ability, GenerateRequest, LanguageModel, LoglikelihoodRequest, Response
from luthier.models.lm.local import ModelCache
from tiny_models import tickets
from tuning import made
from vision_models import tiny_vision_model

QUESTION = InferenceSettings(normalize="sum", max_new_tokens=8, dtype="float32", likelihood=False)
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


class SaidLM(LanguageModel):
    """A language model whose answers functions make: of the last message, and of each continuation after it."""

    abilities: frozenset[Ability] = frozenset({"generate", "continue", "loglikelihood"})

    def __init__(self, name: str, says: Callable[[str], str], options: Callable[[str, str], float]) -> None:
        self.name = self.digest = name
        self._says, self._options = says, options

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        return [Response(text=self._says(_last(one.prompt)), tokens=1, finish_reason="stop") for one in requests]

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        return [Response(logprob=self._options(_last(one.prompt), one.continuation), tokens=1) for one in requests]


def _last(prompt: str | tuple[Message, ...]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


class Said(EvalModel):
    """A voice whose answers a function makes."""

    def __init__(
        self, name: str, says: Callable[[str], str], options: Callable[[str, str], float] | None = None
    ) -> None:
        self.name = self.digest = name
        self.title = f"the {name} model"
        self._says = says
        self.lm = SaidLM(name, says, options or (lambda before, option: -float(len(option))))

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """The function's answer to what the user wrote, nine times as likely as all others."""
        return [self._reply(self._says(user_text_of(one)), task) for one in examples]

    def _reply(self, said: str, task: HeldOutTask) -> Reply:
        if task.kind == "text":
            return Reply(prediction=said, tokens=1, finished=True)
        return Reply(prediction=said, scores={label: 0.0 if label == said else -2.1972245773 for label in task.labels})


def bench_of(
    data: Artifact,
    folder: Path,
    *voices: EvalModel,
    model: Artifact | None = None,
    seed: int = 5,
    media: EvalMedia | None = None,
) -> ProbeContext:
    """Voices that have answered the held-out rows, the first of them the one that the evaluation is about."""
    task = read_held_out_task(data, "test", None, pairs=True)
    events = RunEventEmitter([].append).of("report")
    return ProbeContext(
        media=media or EvalMedia(data),
        task=task,
        answers={eval_model.name: task.answers(eval_model.answer(task.examples, task)) for eval_model in voices},
        recipe_dir=folder,
        seed=seed,
        data=data,
        model=model,
        eval_models={
            one.name: CachedEvalModel(model=one, task=task, kept=open_answer_cache(folder), events=events)
            for one in voices
        },
    )


def pictured_voices(store: Store, data: Artifact, media: EvalMedia) -> list[EvalModel]:
    """Two tiny models that read pictures, and TF-IDF."""
    from luthier.artifacts.dataset import read_examples

    cache, models = ModelCache(), list[EvalModel]()
    for seed, name in enumerate(("tuned", "base")):

        def write(folder: Path, seed: int = seed) -> None:
            tiny_vision_model(folder, seed=seed)
            (folder / "model.json").write_text('{"name": "pictured"}')

        artifact = made(store, f"pictured {name}", "model", write)
        model = LocalEvalModel.of(
            artifact, QUESTION, cache, name=name, title=f"the {name} model", read_media=media.read
        )
        models.append(model)
    return [*models, TrainedBaseline(Baseline.parse("tfidf"), list(read_examples(data, "train")))]


def real_voices(store: Store, data: Artifact) -> list[EvalModel]:
    """The tiny tuned model, its base, and TF-IDF."""
    from luthier.artifacts.dataset import read_examples

    cache, base = ModelCache(), base_model(store)
    tuned = tuned_model(store, base)
    named: list[Any] = [("tuned", tuned), ("base", base)]
    models: list[EvalModel] = [
        LocalEvalModel.of(one, QUESTION, cache, name=name, title=f"the {name} model") for name, one in named
    ]
    train = list(read_examples(data, "train"))
    return [*models, TrainedBaseline(Baseline.parse("tfidf" if any(one.label for one in train) else "length"), train)]
