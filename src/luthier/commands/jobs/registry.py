"""Jobs in the ledger.

A job's state is a field of its row, and a change of state names its allowed predecessors: a late change has no effect.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from luthier.commands.jobs.records import ENDED, FineTuningJob, JobRequest, State
from luthier.commands.jobs.rows import build_cursor_tuple, build_owner_condition, sort_key
from luthier.core.db import Ledger
from luthier.serve.openai.protocol import APIError, ServerBusyError

if TYPE_CHECKING:
    from sqlalchemy import Select

    from luthier.core.db.tables.jobs import JobRow
    from luthier.traces.releases import Release

_MADE = "ft:"
"""Prefix of the names of jobs' models."""
MOST_OPEN = 100
"""Jobs of one key that are not ended yet."""


def generate_job_name() -> str:
    """Return a unique job name."""
    return f"ftjob-{secrets.token_hex(12)}"


class JobRepository:
    """The jobs of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, key: str | None, request: JobRequest, job: str) -> FineTuningJob:
        """Take a wish in, under a name that `generate_job_name` made."""
        from sqlalchemy import func, select

        from luthier.core.db.tables.jobs import JobRow

        row = JobRow(
            id=job,
            key=key,
            state="validating_files",
            made_at=datetime.now(UTC),
            request=request.model_dump(mode="json"),
            settled={},
            deaths=0,
        )
        with self._ledger.writing() as session:
            waiting = select(func.count()).where(build_owner_condition(JobRow, key), JobRow.state.not_in(ENDED))
            if (session.scalar(waiting) or 0) >= MOST_OPEN:
                raise ServerBusyError(f"{MOST_OPEN} jobs of this key are not ended yet", retry_after_s=60)
            session.add(row)
            session.flush()
            return _read(row)

    def get(self, key: str | None, job: str, param: str = "fine_tuning_job_id") -> FineTuningJob:
        """Return one of a key's jobs; `APIError` (404) for any other."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import JobRow

        tuning_jobs = self._found(select(JobRow).where(JobRow.id == job, build_owner_condition(JobRow, key)))
        if not tuning_jobs:
            what = f"there is no fine-tuning job {job[:100]!r}"
            raise APIError(what, param=param, code="fine_tune_not_found", status=404)
        return tuning_jobs[0]

    def any(self, job: str) -> FineTuningJob:
        """Return a job of any key; `APIError` (404) when there is none."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import JobRow

        tuning_jobs = self._found(select(JobRow).where(JobRow.id == job))
        if not tuning_jobs:
            raise APIError(f"there is no job {job[:100]!r}", code="fine_tune_not_found", status=404)
        return tuning_jobs[0]

    def find_by_model(self, model: str) -> FineTuningJob | None:
        """The job that made a model of this name."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import JobRow

        tuning_jobs = self._found(select(JobRow).where(JobRow.model == model))
        return tuning_jobs[0] if tuning_jobs else None

    def listed(
        self, key: str | None, *, after: str | None, limit: int, metadata: Mapping[str, str] | None
    ) -> list[FineTuningJob]:
        """A key's jobs, the latest first, those behind `after`, with the metadata that are named."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import JobRow

        query = select(JobRow).where(build_owner_condition(JobRow, key))
        if after is not None:
            last = self.get(key, after, "after")
            query = query.where(sort_key(JobRow) < build_cursor_tuple(last.made_at, last.id))
        for name, value in (metadata or {}).items():
            query = query.where(JobRow.request["metadata"][name].as_string() == value)
        return self._found(query.order_by(JobRow.made_at.desc(), JobRow.id.desc()).limit(limit))

    def everybody(self, *, states: Collection[str] | None = None, limit: int | None = None) -> list[FineTuningJob]:
        """Jobs of all keys, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.jobs import JobRow

        query = select(JobRow).order_by(JobRow.made_at.desc(), JobRow.id.desc())
        if states is not None:
            query = query.where(JobRow.state.in_(states))
        return self._found(query if limit is None else query.limit(limit))

    def change(self, job: str, state: State, after: Collection[str], *, unmade: bool = False, **more: Any) -> bool:
        """Change a job's state from one of some others; False when it is in none of these, or when its model is made
        and it should be `unmade`.
        """
        from sqlalchemy import update

        from luthier.core.db.tables.jobs import JobRow

        ended = {"finished_at": datetime.now(UTC)} if state in ENDED else {}
        values = {"state": state, **ended, **more}
        found = update(JobRow).where(JobRow.id == job, JobRow.state.in_(after))
        if unmade:
            found = found.where(JobRow.artifact.is_(None))
        with self._ledger.writing() as session:
            result = session.execute(found.values(**values))
            return bool(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it

    def forget_process(self, job: FineTuningJob) -> None:
        """Note that nothing is left of a job's process; nothing where it has another one meanwhile."""
        from sqlalchemy import update

        from luthier.core.db.tables.jobs import JobRow

        with self._ledger.writing() as session:
            session.execute(
                update(JobRow).where(JobRow.id == job.id, JobRow.process == job.process).values(process=None)
            )

    def _found(self, query: Select[Any]) -> list[FineTuningJob]:
        with self._ledger.reading() as session:
            return [_read(row) for row in session.scalars(query)]


def find_alias_owners(ledger: Ledger, released: Mapping[str, Release]) -> dict[str, str | None]:
    """Return released names made by jobs, checkpoints included, with the owner's key of each."""
    from sqlalchemy import select

    from luthier.core.db.tables.jobs import JobRow

    jobs = {name: release.stable.word for name, release in released.items() if name.startswith(_MADE)}
    if not jobs:
        return {}
    with ledger.reading() as session:
        rows = session.execute(select(JobRow.id, JobRow.key).where(JobRow.id.in_({*jobs.values()}))).all()
    keys = {row.id: row.key for row in rows}
    return {name: keys.get(job) for name, job in jobs.items()}


def _read(row: JobRow) -> FineTuningJob:
    return FineTuningJob(
        id=row.id,
        key=row.key,
        state=cast("State", row.state),
        made_at=row.made_at,
        finished_at=row.finished_at,
        request=JobRequest.model_validate(row.request),
        settled=row.settled,
        error=row.error,
        process=row.process,
        deaths=row.deaths,
        artifact=row.artifact,
        model=row.model,
        result_file=row.result_file,
        trained_tokens=row.trained_tokens,
    )
