"""Whether steps could be made by an executor: its store, its client, its scheduler, its image, its Luthier."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from luthier import __version__
from luthier.commands.doctor import HealthCheck
from luthier.core.errors import LuthierError
from luthier.core.files import write_atomically
from luthier.core.revision import code_revision
from luthier.core.step import Step
from luthier.core.store import Store
from luthier.recipe.batch import BatchExecutor
from luthier.recipe.executor import Executor
from luthier.recipe.workspace import Workspace

_NAME = "luthier-doctor"
_ASK = "import luthier, luthier.core.revision as r; print(luthier.__version__, r.code_revision('luthier.core.step'))"
_SECONDS = 60.0


def run_executor_checks(workspace: Workspace, executor: Executor) -> list[HealthCheck]:
    """Try what a job of an executor needs, without a job: the store (also that only one may begin an artifact), the
    client, the scheduler with its credentials, and the Luthier of the far side where this machine sees it."""
    return [*_check(workspace, executor)]


def _check(workspace: Workspace, executor: Executor) -> Iterator[HealthCheck]:
    try:
        store = workspace.open_store()
        came = _try_store(store)
    except LuthierError as error:
        yield HealthCheck("missing", "store", f"{workspace.store_location}: {error.message}", error.hint)
        return
    if came:
        yield HealthCheck("missing", "store", f"{store.location}: {came}", "take another place for it: LUTHIER_STORE")
        return
    yield HealthCheck("good", "store", f"{store.location}: files come back, and one at a time may write")
    if not isinstance(executor, BatchExecutor):
        yield HealthCheck("good", "executor", f"{executor.kind}: steps are made on this machine")
        return
    try:
        executor.check_reach(workspace.folder.absolute(), store)
    except LuthierError as error:
        yield HealthCheck("missing", "client", error.message, error.hint)
        return
    yield HealthCheck("good", "client", f"what {executor.kind} needs is installed, and jobs can reach the store")
    try:
        job_status = executor.find(_NAME)
    except LuthierError as error:
        yield HealthCheck("missing", "scheduler", error.message, error.hint)
        return
    yield HealthCheck(
        "good", "scheduler", f"{executor.kind} answers" + (f" ({job_status.state})" if job_status else "")
    )
    if image := getattr(executor, "image", None) or getattr(executor, "environment", None):
        yield HealthCheck("note", "image", f"{image}: not tried, since only a job can", "run a small step on it")
    yield _check_code(getattr(executor, "python", None))


def _try_store(store: Store) -> str:
    """What is wrong with a store; empty when files come back, and a second writer has to wait."""
    name = f"tasks/doctor-{secrets.token_hex(8)}"
    text = secrets.token_bytes(16)
    write_atomically(store.root / name, text)
    try:
        store.send_file(name)
        if store.read_file(name) != text:
            return "what is written does not come back"
    finally:
        store.remove_file(name)
    with store.lock("doctor", wait=False) as first, store.lock("doctor", wait=False) as second:
        return "two may write one artifact" if first and second else ""


def _check_code(python: str | None) -> HealthCheck:
    """Whether the Luthier of the far side is this one, where its Python is a path that this machine has, too."""
    mine = f"{__version__} {code_revision(Step.__module__)}"
    program = shutil.which(python) if python is not None and os.sep in python else None
    if python is not None and program is None:
        came = f"{python} of the job is not asked, since only a job can; a job of other code makes nothing"
        return HealthCheck("note", "code", came, f"install luthier=={__version__} there")
    if program is None:
        return HealthCheck("good", "code", f"luthier {__version__}, by the Python of this machine")
    try:
        process = subprocess.run(  # noqa: S603  # the Python that the executor names
            [str(Path(program)), "-P", "-c", _ASK], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return HealthCheck("missing", "code", f"{python}: {type(error).__name__}", "name another Python: `python`")
    if process.returncode != 0:
        return HealthCheck("missing", "code", f"{python} has no Luthier", f"{python} -m pip install luthier")
    same = process.stdout.strip() == mine
    came = f"{python} has luthier {process.stdout.split()[0]}, " + ("the same code" if same else "other code")
    return HealthCheck("good" if same else "missing", "code", came, "" if same else "install the same Luthier there")
