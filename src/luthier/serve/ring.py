"""The keys that open the gateway, read again every second: a revoked key opens nothing from then on.

Requests never ask the database. While it is away, the keys that were known go on to hold.
"""

from __future__ import annotations

import asyncio
import logging

from luthier.core.errors import LuthierError
from luthier.core.ledger import Ledger
from luthier.traffic.keys import Ring, read_ring

_LOG = logging.getLogger("luthier.serve")
EVERY_S = 1.0


class RingWatch:
    """Keeps the ring of keys fresh."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.ring = Ring({}, wanted=True)
        """Nobody comes in before the keys were read."""

    async def read(self) -> None:
        """Read the keys now."""
        self.ring = await asyncio.to_thread(read_ring, self._ledger)

    async def run(self) -> None:
        """Read them again and again."""
        away = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.read()
                away = False
            except (LuthierError, OSError) as error:
                if not away:
                    _LOG.warning("keys cannot be read, those known hold on: %s", error)
                away = True
