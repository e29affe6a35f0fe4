"""Files and jobs in a ledger on PostgreSQL: owned, queued, claimed once, cancelled and listed as on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from fine_tuning import as_lines, chats
from luthier.commands.jobs.registry import JobRepository
from luthier.core.db import Ledger
from tests.api.conftest import Open, opened


@pytest.fixture
def door(postgres_database: str, tmp_path: Path) -> Iterator[Open]:
    """The door, over an empty database."""
    with opened(postgres_database, tmp_path) as found:
        yield found


def _job(client: openai.OpenAI) -> str:
    rows = client.files.create(file=("rows.jsonl", as_lines(chats(6))), purpose="fine-tune").id
    return client.fine_tuning.jobs.create(model="base", training_file=rows).id


def test_jobs_live_in_postgresql(door: Open, postgres_database: str) -> None:
    client = door.client()
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda _: _job(client), range(4)))
    assert {one.id for one in client.fine_tuning.jobs.list(limit=10)} == set(jobs)
    assert len(client.files.list().data) == 4
    with pytest.raises(openai.NotFoundError):
        door.client("ben").fine_tuning.jobs.retrieve(jobs[0])
    assert door.client("ben").files.list().data == []
    assert client.fine_tuning.jobs.cancel(jobs[0]).status == "cancelled"
    with Ledger(postgres_database) as other:  # as another server has it
        assert JobRepository(other).any(jobs[0]).state == "cancelled"
        changed = [
            JobRepository(ledger).change(jobs[1], "running", ("validating_files", "queued"))
            for ledger in (other, door.desk.ledger)
        ]
    assert changed == [True, False], "one of two takes it"
    assert client.fine_tuning.jobs.retrieve(jobs[1]).status == "running"
