"""A gateway with the door for files and jobs, two strangers with keys, and nobody who runs the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier.api.fine_tuning import build_fine_tuning_routes
from luthier.commands.jobs.service import JobService
from luthier.commands.jobs.tunable import TunableModel
from luthier.core.db import Ledger
from luthier.core.store import Store
from luthier.traces.api_keys import add_key
from serving import Served, serving


@dataclass
class Open:
    """The door, and who may come in."""

    served: Served
    desk: JobService
    keys: dict[str, str]

    def client(self, who: str = "anna") -> openai.OpenAI:
        """The official client with somebody's key."""
        return self.served.client(self.keys[who], max_retries=5)

    def ask(self, verb: str, path: str, who: str = "anna", **more: Any) -> httpx.Response:
        """A plain request."""
        headers = {"authorization": f"Bearer {self.keys[who]}", **more.pop("headers", {})}
        place = f"{self.served.root}{path}"
        return httpx.request(verb, place, headers=headers, timeout=60, trust_env=False, verify=False, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """The door."""
    folder = tmp_path_factory.mktemp("door")
    with opened(folder / "ledger.db", folder) as found:
        yield found


@contextmanager
def opened(where: Path | str, folder: Path) -> Iterator[Open]:
    """The door over a ledger."""
    with Ledger(where) as ledger:
        keys = {who: add_key(ledger, who, ("tune",)) for who in ("anna", "ben")}
        keys["reader"] = add_key(ledger, "reader", ("infer",))
        keys["root"] = add_key(ledger, "root", ("admin",))
        desk = JobService(ledger, Store(folder), {"base": TunableModel("base", "tiny-model")})
        with serving({}, where, extra_routes=build_fine_tuning_routes(desk)) as served:
            yield Open(served, desk, keys)
