"""Texts as points: an open embedder answers `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

from luthier.models.embedder import Space
from luthier.serve.engine import Answering
from luthier.serve.query import Piece, Query, Verb
from luthier.serve.refusal import Busy, Refusal

if TYPE_CHECKING:
    from luthier.models.embedder import Points as Found

WAITING = 64
"""Requests that wait, at most."""


class Points(Answering):
    """An open embedder. One request is computed at a time: texts of different requests gain nothing together."""

    able: ClassVar[frozenset[Verb]] = frozenset({"embedding"})

    def __init__(self, space: Space, digest: str) -> None:
        super().__init__(digest)
        self._space = space
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="luthier-points")
        self._asked = 0

    @property
    def waiting(self) -> int:
        return max(0, self._asked - 1)

    @property
    def running(self) -> int:
        return min(1, self._asked)

    async def answer(self, query: Query) -> AsyncGenerator[Piece, None]:
        nothing: tuple[Piece, ...] = ()
        for piece in nothing:
            yield piece  # an async generator, as all answers are
        raise Refusal("this model writes no text: it makes embeddings", param="model")

    async def points(self, texts: Sequence[str]) -> tuple[Found, int]:
        if self._asked > WAITING:
            raise Busy(f"{self._asked} requests wait already", retry_after_s=1.0)
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._desk, self._read, texts)
        finally:
            self._asked -= 1

    def _read(self, texts: Sequence[str]) -> tuple[Found, int]:
        from luthier.models.sentence import Sentences

        tokens = self._space.tokens(texts) if isinstance(self._space, Sentences) else []
        return self._space.points(texts), sum(map(len, tokens))

    async def close(self) -> None:
        self._desk.shutdown(wait=False, cancel_futures=True)
