"""A conversation with a model of a recipe, or with a base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, RecipeError, UnknownName, Where
from luthier.flow.base_models import base_model
from luthier.flow.locate import find_artifact, find_recipe
from luthier.flow.plan import plan
from luthier.flow.recipe import Recipe
from luthier.text.messages import Message

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.text.ids import Text


@dataclass(kw_only=True)
class Session:
    """An open model and what was said so far."""

    name: str
    loaded: Loaded
    text: Text
    max_tokens: int
    temperature: float
    notes: list[str]
    """What was decided for the user, and why."""
    turns: list[Message] = field(default_factory=list)
    alone: bool = False
    """Whether each question is answered without those before it, as a model that chooses classes has learnt to."""

    def ask(self, words: str) -> str:
        """The whole answer to one turn."""
        return "".join(self.stream_answer(words))

    def stream_answer(self, words: str) -> Iterator[str]:
        """The answer to one turn, piece by piece as it is written."""
        from luthier.models.generate import Sampling, stream

        self.turns.append(Message(role="user", content=words))
        ids: list[int] = []
        said = ""
        prompt = self.text.prompt(self.turns)
        sampling = Sampling(temperature=self.temperature)
        for token in stream(self.loaded, prompt, self.max_tokens, self.text.end_ids, sampling=sampling):
            ids.append(token)
            so_far = self.text.decode(ids, special=False)
            if so_far.endswith("\ufffd"):
                continue  # half of a character: the rest comes with the next token
            yield so_far[len(said) :]
            said = so_far
        if self.alone:
            self.turns.pop()
        else:
            self.turns.append(Message(role="assistant", content=said))


def open_chat(word: str | None, *, system: str | None, max_tokens: int, temperature: float) -> Session:
    """Open a tuned step (`RECIPE:STEP`, or the recipe here), or a base model by name."""
    from luthier.models.load import load
    from luthier.text.ids import Text

    name, artifact = _model(word)
    loaded = load(artifact)
    session = Session(
        name=name,
        loaded=loaded,
        text=Text.load(loaded.folder),
        max_tokens=max_tokens,
        temperature=temperature,
        notes=[f"{name}: end with Ctrl-D"],
    )
    if system is None and (learnt := _learnt_system(artifact)):
        system = learnt
        session.notes.append(f"system message, as in the training data: {learnt!r}")
    if _chooses_classes(artifact):
        session.alone = True
        session.notes.append("each line is answered by itself, as in the training data")
    if system:
        session.turns.append(Message(role="system", content=system))
    return session


def _model(word: str | None) -> tuple[str, Artifact]:
    if word is None or (":" not in word and Path(word).suffix in (".yaml", ".yml")):
        return _last_model(Path(word) if word else None)
    try:
        found = find_artifact(word)
    except UnknownName:
        if ":" in word:
            raise
        return word, base_model(word)
    if found.artifact.manifest.makes != "model":
        message = f"{found.name} is a {found.artifact.manifest.makes}, not a model"
        raise ModelError(message, where=Where(field=word), remedy="name the step that tunes, as RECIPE:STEP")
    return found.name, found.artifact


def _last_model(path: Path | None) -> tuple[str, Artifact]:
    """The last model that a recipe tunes."""
    recipe = Recipe.load(find_recipe(path))
    what = plan(recipe)
    names = [planned.name for planned in what if planned.step.makes == "model"]
    if not names:
        raise RecipeError(
            "this recipe makes no model", where=Where(file=recipe.file), remedy="name a model to talk with"
        )
    return f"{recipe.name}:{names[-1]}", what.artifact(names[-1])


def _chooses_classes(artifact: Artifact) -> bool:
    """Whether a model was tuned on rows that are answered with one of a few classes."""
    if "data" not in artifact.manifest.inputs:
        return False
    from luthier.text.dataset import summary

    return summary(artifact.parent("data")).task == "label"


def _learnt_system(artifact: Artifact) -> str | None:
    """The system message that every training row of a tuned model began with, when they all share one."""
    if "data" not in artifact.manifest.inputs:
        return None
    from luthier.text.dataset import read_examples

    examples = read_examples(artifact.parent("data"), "train")
    firsts = {example.messages[0].content for example in examples if example.messages[0].role == "system"}
    shared = len(firsts) == 1 and all(example.messages[0].role == "system" for example in examples)
    return firsts.pop() if shared else None
