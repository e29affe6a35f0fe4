"""State that all pages of one server share: the queue of runs, sessions, and caches of watched runs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, FastAPI
from starlette.datastructures import FormData
from starlette.requests import Request

from luthier.annotation.project import find_recipe_of
from luthier.annotation.project import list_projects as list_annotation_projects
from luthier.commands.labeling.item_media import ItemMedia
from luthier.commands.projects.comparison import ComparisonCache
from luthier.commands.projects.explanations import ExplanationBook
from luthier.commands.projects.intake import ProposalCache
from luthier.commands.projects.judging import StudyBook
from luthier.commands.projects.queue import QueuedRun, QueueRunner, RunQueue
from luthier.commands.projects.run_log import RunLog
from luthier.commands.projects.serving import ProjectServer
from luthier.commands.projects.trial import TrialServer
from luthier.commands.projects.watch import MonitorRunner, SignalReader
from luthier.commands.projects.workspace import find_project_file, project_id, workspace_store
from luthier.commands.review.fill import ReviewFiller
from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.people.oidc import OidcProvider, PendingLogin
from luthier.recipe.runner import get_run_log_path
from luthier.recipe.workspace import Workspace
from luthier.studio.security import StudioNames, read_form
from luthier.studio.sessions import BrowserSessions

LABELLING = "label/"
"""How the project of a role begins that holds in one set of items alone."""
_EVERY_S = 0.5
_LOG = logging.getLogger("luthier.studio")
_WATCHED = 32
_LOGIN_S, _MOST_LOGINS = 600.0, 10_000


class PendingLogins:
    """Logins that people began at an OpenID provider, for as long as that may take; each ends once."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, str, PendingLogin, str]] = {}
        self._turn = threading.Lock()

    def add(self, cookie: str, pending: PendingLogin, then: str) -> None:
        """Keep one for the browser with a cookie; `then` is where it goes afterwards."""
        now = time.monotonic()
        with self._turn:
            fresh = {state: entry for state, entry in self._kept.items() if now - entry[0] < _LOGIN_S}
            self._kept = dict([*fresh.items(), (pending.state, (now, cookie, pending, then))][-_MOST_LOGINS:])

    def take(self, cookie: str, state: str) -> tuple[PendingLogin, str] | None:
        """The one with a state; None where it is over, or another browser began it."""
        with self._turn:
            at, own, pending, then = self._kept.get(state, (0.0, "", None, ""))
            if pending is None or not hmac.compare_digest(own, cookie) or time.monotonic() - at > _LOGIN_S:
                return None
            del self._kept[state]
            return pending, then


class _Processes(NamedTuple):
    """The processes of one project."""

    server: ProjectServer
    signals: SignalReader
    monitor: MonitorRunner


@dataclass(kw_only=True)
class Studio:
    """A workspace's queue, sessions and caches."""

    ledger: Ledger
    workspace: Workspace
    """The folder of projects that it shows."""
    names: StudioNames = field(default_factory=StudioNames)
    """Under which addresses browsers reach it."""
    oidc: OidcProvider | None = None
    """Where people may log in instead of by a password."""
    proposals: ProposalCache = field(default_factory=ProposalCache)
    _processes: dict[Path, _Processes] = field(default_factory=dict)
    _logs: dict[str, RunLog] = field(default_factory=dict)
    reading: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    """Held while a page shows what was read of a run, so that nobody reads on meanwhile."""
    pieces: dict[str, tuple[object, str]] = field(default_factory=dict)
    """What those who watch a run see now, by run."""
    _looked: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = RunQueue(self.ledger)
        self.sessions = BrowserSessions(self.ledger)
        self.comparisons = ComparisonCache(self.workspace, self.folder.parent / "comparisons")
        self.studies = StudyBook(self.workspace, self.ledger)
        self.explanations = ExplanationBook(self.workspace, self.folder.with_name("explanations"))
        self.item_media = ItemMedia(self.ledger, self.workspace)
        self.pending = PendingLogins()
        self.trial = TrialServer(self.workspace, self.folder / "trial")
        self.review = ReviewFiller(self.ledger, self.workspace, self.folder)

    @property
    def folder(self) -> Path:
        """Where the queue keeps what its processes print."""
        return workspace_store(self.workspace) / "queue"

    def find_recipe(self, project: str) -> Path:
        """The recipe of a project by its id; `UnknownName` where there is none."""
        return find_project_file(self.workspace, project)

    def server_of(self, file: Path) -> ProjectServer:
        """The server of a project's released models."""
        return self._processes_of(file).server

    def signals_of(self, file: Path) -> SignalReader:
        """What computes a project's signals."""
        return self._processes_of(file).signals

    def monitor_of(self, file: Path) -> MonitorRunner:
        """What tells of a project's alerts."""
        return self._processes_of(file).monitor

    def _processes_of(self, file: Path) -> _Processes:
        with self.reading:
            if file not in self._processes:
                name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:16]
                path = self.folder.with_name("processes") / name
                self._processes[file] = _Processes(
                    ProjectServer(self.workspace, file, path / "server"),
                    SignalReader(self.workspace, file, path / "signals"),
                    MonitorRunner(self.workspace, file, path / "monitor"),
                )
            return self._processes[file]

    def project_of(self, run: QueuedRun) -> str:
        """The id of the project whose recipe a run is of."""
        return project_id(self.workspace, self.workspace.resolve(run.recipe_file))

    def find_labelling(self, project_id: str) -> tuple[str, ...]:
        """The projects whose roles count for a set of items that people answer questions about."""
        return self.projects_above(f"{LABELLING}{project_id}")

    def list_labellings(self) -> dict[str, str]:
        """The sets of items that a role can be given in, with their names."""
        return {
            f"{LABELLING}{annotation_project.id}": annotation_project.name
            for annotation_project in list_annotation_projects(self.ledger)
        }

    def projects_above(self, project: str) -> tuple[str, ...]:
        """The projects whose roles count in one."""
        if not project.startswith(LABELLING):
            return (project,)
        owner = find_recipe_of(self.ledger, project.removeprefix(LABELLING))
        return (project, owner) if owner else (project,)

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
        await asyncio.to_thread(self.trial.stop)
        task = asyncio.create_task(
            _again_and_again(
                runner.advance, self.trial.end_when_idle, self.review.advance, self.studies.advance,
                self.explanations.advance,
            )
        )  # fmt: skip
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            runner.close()
            self.studies.close()
            self.explanations.close()
            self.item_media.close()
            await asyncio.to_thread(self.trial.stop)
            await asyncio.to_thread(self.review.close)


async def _again_and_again(*looks: Callable[[], object]) -> None:
    """Look at all queues, twice a second; while the ledger is away, wait for it."""
    away = False
    while True:
        try:
            for look in looks:
                await asyncio.to_thread(look)
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
