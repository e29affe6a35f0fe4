"""Several streams of pieces as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from luthier.serve.query import Piece

Pieces = AsyncGenerator[Piece, None]


async def together(streams: Sequence[Pieces], each: int) -> Pieces:
    """The pieces of several streams as they come; the answers of one (`each` of them) are counted on from those of the
    one before. With the first that fails, all end."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for piece in only:
                yield piece
        return
    came: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(maxsize=64)
    tasks = [asyncio.create_task(_pump(stream, number * each, came)) for number, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            found = await came.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: Pieces, first: int, came: asyncio.Queue[Piece | Exception | None]) -> None:
    try:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                await came.put(replace(piece, answer=first + piece.answer))
        await came.put(None)
    except Exception as error:  # noqa: BLE001  # it is raised where the pieces are awaited
        await came.put(error)
