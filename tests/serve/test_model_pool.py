"""Models are open once each, by whatever words they are wanted, and closed when no word means them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from luthier.serve.engine import ModelRunner
from luthier.serve.model_pool import ModelPool, OpenModel, ResolvedModel
from luthier.serve.request import EngineRequest, OutputChunk


class _Open(ModelRunner):
    def __init__(self, digest: str, log: list[str]) -> None:
        super().__init__(digest)
        self._log = log
        log.append(f"open {digest}")

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        for piece in list[OutputChunk]():
            yield piece

    async def close(self) -> None:
        self._log.append(f"close {self.digest}")


def test_a_model_that_is_served_and_released_is_open_once() -> None:
    log: list[str] = []
    digests = {"recipe.yaml:tune": "aa", "aa": "aa", "other": "bb"}
    names = {"recipe.yaml:tune": "tickets:tune", "aa": "a", "other": "other"}
    fleet = ModelPool(
        lambda word: OpenModel(names[word], _Open(digests[word], log)),
        lambda word: ResolvedModel(names[word], digests[word]),
    )

    async def through() -> None:
        assert await fleet.prepare("recipe.yaml:tune") == "aa"
        assert await fleet.prepare("aa") == "aa"
        assert await fleet.prepare("other") == "bb"
        assert log == ["open aa", "open bb"]
        assert fleet.names() == ["tickets:tune", "a", "other"]
        assert len(fleet.each()) == 2
        async with fleet.using("aa") as one, fleet.using("tickets:tune") as same:
            assert one is same
        await fleet.retire("aa")
        assert not fleet.knows("aa")
        assert not fleet.knows("a")
        assert fleet.knows("recipe.yaml:tune")
        assert log == ["open aa", "open bb"], "another word means it still"
        async with fleet.using("tickets:tune"):
            leaving = asyncio.create_task(fleet.retire("recipe.yaml:tune"))
            await asyncio.sleep(0)
            assert not fleet.knows("tickets:tune")
            assert "close aa" not in log, "somebody is being answered"
        await leaving
        assert log[-1] == "close aa"
        await fleet.close()
        assert log[-1] == "close bb"

    asyncio.run(through())
