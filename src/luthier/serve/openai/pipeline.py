"""A classifier in front of several models: it names a class, and the class's own model answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from luthier.core.component import add_field_descriptions
from luthier.core.hashing import digest_of
from luthier.serve.engine import ModelRunner
from luthier.serve.model_pool import ModelPool
from luthier.serve.openai.protocol import APIError
from luthier.serve.request import AggregatedOutput, EngineRequest, OutputChunk, Verb


class ClassRouterConfig(BaseModel):
    """The settings of a routing pipeline: the classifier, and the model that answers for each class."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    by: str
    """The model that names the class."""
    to: dict[str, str]
    """The model that answers, by class."""
    other: str | None = None
    """Model of all other classes; without it, such requests are refused."""

    @property
    def models(self) -> list[str]:
        """All models that it needs."""
        return list(dict.fromkeys([self.by, *self.to.values(), *([self.other] if self.other else [])]))


class ClassRouter(ModelRunner):
    """A model that classifies each request and passes it to the model of that class. The last piece of each answer
    carries the classes' probabilities."""

    able: ClassVar[frozenset[Verb]] = frozenset({"chat"})

    def __init__(self, fleet: ModelPool, ways: ClassRouterConfig) -> None:
        super().__init__(
            digest_of([ways.model_dump(mode="json"), {model: fleet.digest(model) for model in ways.models}])
        )
        self._fleet, self._ways = fleet, ways

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        choice = await self._choose(query)
        scores = dict(choice.scores or {})
        label = max(scores, key=lambda score: scores[score])
        name = self._ways.to.get(label, self._ways.other)
        if name is None:
            raise APIError(f"the message is of class {label!r}, for which no model is named", param="messages")
        async with (
            self._fleet.using(name) as model,
            aclosing(model.answer(model.apply_training_prompt(query))) as pieces,
        ):
            async for piece in pieces:
                yield piece if piece.finish is None else replace(piece, scores=scores, calibration=choice.calibration)

    async def _choose(self, query: EngineRequest) -> AggregatedOutput:
        """The answer of the classifier, with the probability of each class."""
        choice = AggregatedOutput()
        async with self._fleet.using(self._ways.by) as chooser:
            if not chooser.chooses:
                raise APIError(f"{self._ways.by} names no classes, and cannot lead a pipeline", param="model")
            async with aclosing(
                chooser.answer(chooser.apply_training_prompt(EngineRequest(messages=query.messages, media=query.media)))
            ) as pieces:
                async for piece in pieces:
                    choice.add(piece)
        return choice
