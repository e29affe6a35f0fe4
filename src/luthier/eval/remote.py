"""Asking a model behind an endpoint: what it writes, and for labels which of them that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.digest import digest_of
from luthier.core.errors import RecipeError, Where
from luthier.eval.rows import Reply, Task
from luthier.eval.voice import Verb, Voice, Written
from luthier.metrics.metric import Need
from luthier.text.messages import as_openai, prompt_of
from luthier.text.prompt import Prompt

if TYPE_CHECKING:
    from luthier.core.step import Outlook
    from luthier.eval.ask import Question
    from luthier.text.messages import Example, Message


class Remote(Voice):
    """A model that is asked over HTTP, its prompt in front; finished answers are kept in `kept`."""

    able: frozenset[Verb] = frozenset({"answer", "write"})

    def __init__(self, artifact: Artifact, question: Question, kept: Path, *, name: str, title: str) -> None:
        from luthier.models.endpoint import Client

        self.name, self.title = name, title
        self.digest = digest_of([artifact.digest, vars(question)])
        self._client = Client.of(artifact, kept)
        self._before = Prompt.of(artifact)
        self._question = question

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """Answer some rows of a task."""
        if task.pairs:
            remedy = "set `pairs: false` to have it write answers, or take a model whose weights are here"
            raise RecipeError("an endpoint cannot be asked how likely given answers are", remedy=remedy)
        asked = [as_openai(self._before.wrap(prompt_of(example))) for example in examples]
        if task.kind == "label":
            picked = self._client.pick(asked, list(task.options.values()))
            return [Reply(prediction=one.label(task.labels), scores=one.by_label(task.labels)) for one in picked]
        said = self._client.write(asked, self._question.max_new_tokens)
        return [Reply(prediction=one.text.strip(), tokens=one.tokens, finished=one.finished) for one in said]

    def write(self, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> list[Written]:
        """The greedy answer to each conversation."""
        said = self._client.write([as_openai(self._before.wrap(messages)) for messages in asked], max_new_tokens)
        return [Written(one.text, one.tokens, one.finished) for one in said]


def lacking_ahead(outlook: Outlook, normalise: str) -> frozenset[Need]:
    """The same of a model that may not be made yet."""
    from luthier.models.load import is_remote
    from luthier.models.sources.endpoint import Endpoint

    if (made := outlook.inputs.get("model")) is not None:
        return lacking(made, normalise)
    if not is_remote(outlook):
        return frozenset()
    source = getattr(outlook.upstream.get("model"), "source", None)
    return _untold(normalise, by_text=isinstance(source, Endpoint) and source.labels == "text")


def lacking(model: Artifact, normalise: str) -> frozenset[Need]:
    """What the answers of a model cannot have: nothing when its weights are here."""
    from luthier.models.load import is_endpoint

    if not is_endpoint(model):
        return frozenset()
    from luthier.models.endpoint import Client

    return _untold(normalise, by_text=Client.of(model, model.folder).settings.labels == "text")


def _untold(normalise: str, *, by_text: bool) -> frozenset[Need]:
    """What an endpoint does not tell, by whether it is only asked to write a label."""
    if normalise != "sum":
        raise RecipeError("changes nothing for an endpoint; leave it out", where=Where(field="normalise"))
    return frozenset({"logprobs", "label_scores"}) if by_text else frozenset({"logprobs"})
