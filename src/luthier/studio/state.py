"""What all pages of one server share: the queue of runs, sessions, and what was read of runs that are watched."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from starlette.datastructures import FormData
from starlette.requests import Request

from luthier.commands.projects.intake import ProposalCache
from luthier.commands.projects.queue import QueuedRun, QueueRunner, RunQueue
from luthier.commands.projects.run_log import RunLog
from luthier.commands.projects.trial import TrialServer
from luthier.commands.projects.workspace import find_project_file, project_id, workspace_store
from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.recipe.runner import get_run_log_path
from luthier.recipe.workspace import Workspace
from luthier.studio.security import read_form
from luthier.studio.sessions import BrowserSessions

_EVERY_S = 0.5
_LOG = logging.getLogger("luthier.studio")
_WATCHED = 32


@dataclass(kw_only=True)
class Studio:
    """A workspace's queue, sessions and caches."""

    ledger: Ledger
    workspace: Workspace
    """The folder of projects that it shows."""
    proposals: ProposalCache = field(default_factory=ProposalCache)
    _logs: dict[str, RunLog] = field(default_factory=dict)
    reading: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    """Held while a page shows what was read of a run, so that nobody reads on meanwhile."""
    pieces: dict[str, tuple[object, str]] = field(default_factory=dict)
    """What those who watch a run see now, by run."""
    _looked: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = RunQueue(self.ledger)
        self.sessions = BrowserSessions(self.ledger)
        self.trial = TrialServer(self.workspace, self.folder / "trial")

    @property
    def folder(self) -> Path:
        """Where the queue keeps what its processes print."""
        return workspace_store(self.workspace) / "queue"

    def find_recipe(self, project: str) -> Path:
        """The recipe of a project by its id; `UnknownName` where there is none."""
        return find_project_file(self.workspace, project)

    def project_of(self, run: QueuedRun) -> str:
        """The id of the project whose recipe a run is of."""
        return project_id(self.workspace, self.workspace.resolve(run.recipe_file))

    def _workspace_of(self, run: QueuedRun) -> Workspace:
        return self.workspace.with_folder(self.workspace.resolve(run.recipe_file).parent)

    def watch(self, run: QueuedRun) -> RunLog | None:
        """What a run has said so far; None before it began. However many watch it, its log is read twice a second."""
        if run.run is None:
            return None
        with self.reading:
            log = self._logs.get(run.run)
            if log is None:
                log = RunLog(get_run_log_path(self._workspace_of(run).open_store(), run.run))
                self._logs = dict([*self._logs.items(), (run.run, log)][-_WATCHED:])
            now = time.monotonic()
            if run.ended or now - self._looked.get(run.run, 0.0) > _EVERY_S:
                self._looked[run.run] = now
                log.advance()
            return log

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Work through the queue for as long as the server runs; runs that are under way outlive it, a model that is
        tried does not."""
        runner = QueueRunner(self.queue, self.workspace, self.folder)
        self.trial.end_leftover()
        task = asyncio.create_task(_again_and_again(runner, self.trial))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            runner.close()
            await asyncio.to_thread(self.trial.stop)


async def _again_and_again(runner: QueueRunner, trial: TrialServer) -> None:
    """Look at the queue, twice a second; while the ledger is away, wait for it."""
    away = False
    while True:
        try:
            await asyncio.to_thread(runner.advance)
            await asyncio.to_thread(trial.end_when_idle)
            away = False
        except LuthierError as error:
            if not away:
                _LOG.warning("the queue waits: %s", error)
            away = True
        await asyncio.sleep(_EVERY_S)


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


StudioDep = Annotated[Studio, Depends(_studio)]
FormDep = Annotated[FormData, Depends(read_form)]


def text_of(form: FormData, name: str) -> str:
    """A field of a form as text; empty where it is not there, or is a file."""
    value = form.get(name)
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""
