"""The ledger of runs: its transactions and its records.

Each method is one short transaction, so a kill leaves nothing half written. Records are frozen and the same for every
database.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, UnknownName
from luthier.core.system.process import get_unique_process_name, is_process_gone

if TYPE_CHECKING:
    from sqlalchemy import Engine, Select
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.runs import RunRow

State = Literal["running", "done", "failed", "interrupted"]


class RunStep(BaseModel):
    """One step of a run."""

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra=add_field_descriptions)

    name: str
    """The step's name in the recipe."""
    kind: str
    artifact: str
    """Digest of the artifact that it made or found."""
    cached: bool
    """Whether the artifact was there already."""
    seconds: float


class Run(BaseModel):
    """One run of a recipe, with the steps that it has finished."""

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra=add_field_descriptions)

    id: str
    recipe: str
    """The recipe's name."""
    recipe_digest: str
    folder: str
    """The recipe's folder."""
    recipe_file: str | None = None
    """The name of the recipe's file in that folder; None for a run of an earlier version, which did not record it."""
    recipe_text: str | None = None
    """The recipe as it was written, without the overrides."""
    overrides: list[str] | None = None
    """The overrides that were given on the command line, as PATH=VALUE."""
    started_at: datetime
    finished_at: datetime | None
    state: State
    exit_code: int | None
    error: dict[str, Any] | None
    """The documented shape of the error that ended it."""
    steps: list[RunStep]


def ledger_url(root: Path) -> str:
    """Where the ledger of a store's folder is: an SQLite file in it."""
    return f"sqlite:///{root.absolute() / 'ledger.db'}"


class Ledger:
    """Runs, and every later kind of living row, in one database; opening it brings its tables up to date.

    `url` is `sqlite:///FILE`, `postgresql://user@host/database`, or a path to an SQLite file.
    """

    def __init__(self, url: str | Path) -> None:
        from luthier.core.db.engine import DatabaseErrorTranslator, create_ledger_engine
        from luthier.core.db.migrate import migrate

        self._engine: Engine = create_ledger_engine(f"sqlite:///{url}" if isinstance(url, Path) else url)
        with ExitStack() as undo:
            undo.callback(self._engine.dispose)
            with DatabaseErrorTranslator(self._engine.url):
                migrate(self._engine)
            undo.pop_all()

    @property
    def location(self) -> str:
        """The URL, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Session]:
        """One transaction that writes: all of it or nothing; `durable` also outlives a power cut right after it."""
        with self._session(reads=False, durable=durable) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that only reads: it waits for nobody."""
        with self._session(reads=True) as session:
            yield session

    @contextmanager
    def _session(self, *, reads: bool, durable: bool = False) -> Iterator[Session]:
        from sqlalchemy.orm import Session

        from luthier.core.db.engine import DURABLE, READS, DatabaseErrorTranslator

        engine = self._engine.execution_options(**{READS: reads, DURABLE: durable})
        with DatabaseErrorTranslator(engine.url), Session(engine) as session, session.begin():
            yield session

    def start_run(
        self,
        recipe: str,
        recipe_digest: str,
        folder: str,
        *,
        file: str | None = None,
        text: str | None = None,
        overrides: Sequence[str] = (),
    ) -> str:
        """Write down that a run begins, and that runs whose process died were interrupted; returns the run's id.

        `file` is the name of the recipe's file in its folder, `text` what stands in it; with the `overrides` the same
        recipe can be read again, whatever becomes of the file.
        """
        from luthier.core.db.tables.runs import RunRow

        run = RunRow(
            id=secrets.token_hex(6),
            recipe=recipe,
            recipe_digest=recipe_digest,
            folder=folder,
            recipe_file=file,
            recipe_text=text,
            overrides=list(overrides),
            started_at=datetime.now(UTC),
            state="running",
            process=get_unique_process_name(),
        )
        with self.writing() as session:
            _mark_dead(session)
            session.add(run)
            return run.id

    def record_step(self, run: str, step: RunStep) -> None:
        """Write down a finished step of a run; the same step again replaces what was written."""
        from sqlalchemy import delete

        from luthier.core.db.tables.runs import RunStepRow

        with self.writing() as session:
            _get_row(session, run)
            session.execute(delete(RunStepRow).where(RunStepRow.run_id == run, RunStepRow.name == step.name))
            session.add(RunStepRow(run_id=run, **step.model_dump()))

    def finish_run(self, run: str, state: State, exit_code: int, error: dict[str, Any] | None = None) -> None:
        """Write down how a run ended."""
        if error is not None:
            _check_json(error)
        with self.writing() as session:
            row = _get_row(session, run)
            row.state, row.exit_code, row.error = state, exit_code, error
            row.finished_at = datetime.now(UTC)

    def run(self, run: str) -> Run:
        """One run by its id."""
        with self.reading() as session:
            return Run.model_validate(_get_row(session, run))

    def find_run_of_process(self, process: str) -> Run | None:
        """The run that a process began; None before it has."""
        from sqlalchemy import select

        from luthier.core.db.tables.runs import RunRow

        return next(iter(self._read_runs(select(RunRow).where(RunRow.process == process).limit(1))), None)

    def find_runs(self, beginning: str) -> list[Run]:
        """The runs whose ids begin so, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.runs import RunRow

        return self._read_runs(select(RunRow).where(RunRow.id.startswith(beginning, autoescape=True)))

    def runs(self, *, limit: int = 100) -> list[Run]:
        """The latest runs, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.runs import RunRow

        return self._read_runs(select(RunRow).limit(limit))

    def latest(self, recipe: str, folder: str) -> Run | None:
        """The latest run of a recipe in a folder, whatever came of it."""
        runs = self.runs_of(recipe, folder, limit=1)
        return runs[0] if runs else None

    def runs_of(self, recipe: str, folder: str, *, limit: int | None = None) -> list[Run]:
        """The runs of a recipe in a folder, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.runs import RunRow

        return self._read_runs(select(RunRow).where(RunRow.recipe == recipe, RunRow.folder == folder).limit(limit))

    def runs_that_used(self, artifact: str) -> list[Run]:
        """The runs that made or found an artifact, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.runs import RunRow, RunStepRow

        used = select(RunStepRow.run_id).where(RunStepRow.artifact == artifact)
        return self._read_runs(select(RunRow).where(RunRow.id.in_(used)))

    def _read_runs(self, query: Select[Any]) -> list[Run]:
        from luthier.core.db.tables.runs import RunRow

        with self.reading() as session:
            rows = session.scalars(query.order_by(RunRow.started_at.desc(), RunRow.id.desc()))
            return [Run.model_validate(row) for row in rows]


def _get_row(session: Session, run: str) -> RunRow:
    from luthier.core.db.tables.runs import RunRow

    row = session.get(RunRow, run)
    if row is None:
        raise UnknownName(f"no run {run!r} in the ledger", hint="`luthier runs` shows what there is")
    return row


def _mark_dead(session: Session) -> None:
    from sqlalchemy import select

    from luthier.core.db.tables.runs import RunRow

    for row in session.scalars(select(RunRow).where(RunRow.state == "running")):
        if is_process_gone(row.process):
            row.state, row.exit_code = "interrupted", 130


def _check_json(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"an error's record is no JSON: {error}") from error
