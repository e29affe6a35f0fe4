"""Every engine keeps an engine's promises: documented settings, clear refusals, pieces that make whole answers."""

from __future__ import annotations

import asyncio

import pytest

from documented import undescribed
from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import LuthierError
from luthier.serve.engine import ModelRunner, ServingEngine
from luthier.serve.request import AggregatedOutput, EngineRequest, OutputChunk
from serving import model_in

KINDS = sorted(components_by_kind(ServingEngine))
QUERY = EngineRequest(messages=(Message(role="user", content="Where is the parcel?"),), max_tokens=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return model_in(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented_and_its_settings_come_back(kind: str) -> None:
    member = components_by_kind(ServingEngine)[kind]
    assert member.summary()
    made = member()
    assert ServingEngine.parse(made.settings()) == made
    assert undescribed(member) == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_a_model_or_says_why_not(kind: str, tiny: Artifact) -> None:
    """A plain model goes to some engines; the others name what is missing, and what to do."""
    found = _opened(kind, tiny)
    if isinstance(found, LuthierError):
        assert found.hint
        return
    try:
        _keeps_its_promises(found)
    finally:
        asyncio.run(found.close())


def _opened(kind: str, model: Artifact) -> ModelRunner | LuthierError:
    try:
        return components_by_kind(ServingEngine)[kind]().open(model)
    except LuthierError as error:
        return error


def _keeps_its_promises(model: ModelRunner) -> None:
    async def ask(query: EngineRequest) -> list[OutputChunk]:
        return [piece async for piece in model.answer(query)]

    pieces = asyncio.run(ask(QUERY))
    found = AggregatedOutput()
    for piece in pieces:
        found.add(piece)
    assert [piece.finish is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].usage is not None
    assert found.usage.completion_tokens > 0
    assert model.digest
    again = asyncio.run(ask(QUERY))
    assert "".join(piece.text for piece in again) == found.text, "without a wish, answers are repeatable"
    assert (model.waiting, model.running) == (0, 0)
