"""Check an executor: its store, client, scheduler, image and installed Luthier."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from luthier import __version__
from luthier.commands.doctor import HealthCheck, State, memory_bytes
from luthier.core.errors import LuthierError
from luthier.core.files import write_atomically
from luthier.core.remote_store import is_remote
from luthier.core.revision import code_revision
from luthier.core.step import Step
from luthier.core.store import Store
from luthier.core.system.process import python_command
from luthier.recipe.batch import BatchExecutor, BatchJob
from luthier.recipe.executor import Executor
from luthier.recipe.executors.process import ProcessExecutor
from luthier.recipe.machine_task import MachineReport, MachineTask
from luthier.recipe.workspace import Workspace

_NAME = "luthier-doctor"
_ASK = "import luthier, luthier.core.revision as r; print(luthier.__version__, r.code_revision('luthier.core.step'))"
_SECONDS = 60.0
_JOB_S = 600.0
"""Seconds that a job may wait and run."""
_TAIL = 5
"""Lines of its output that are shown of a job that found nothing."""
_HOPELESS = re.compile(r"ImagePullBackOff|InvalidImageName|CreateContainerConfigError")
"""Pod states of Kubernetes that waiting does not resolve."""


def run_executor_checks(workspace: Workspace, executor: Executor, *, with_job: bool = False) -> list[HealthCheck]:
    """Try what a job of an executor needs, without a job: the store (also that only one may begin an artifact), the
    client, the scheduler with its credentials, and the Luthier of the far side where this machine sees it. With a job:
    also what only a job sees, its image, its Luthier, the store from there, GPUs and processor."""
    return [*_check(workspace, executor, with_job)]


def _check(workspace: Workspace, executor: Executor, with_job: bool) -> Iterator[HealthCheck]:
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
        if with_job and isinstance(executor, ProcessExecutor):
            yield from _check_report(executor, *_run_process(workspace, store))
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
    if with_job:
        yield from _check_report(executor, *_run_job(workspace, store, executor))
        return
    if image := getattr(executor, "image", None) or getattr(executor, "environment", None):
        yield HealthCheck(
            "note", "image", f"{image}: not tried, since only a job can", "luthier doctor --on EXECUTOR --job"
        )
    yield _check_code(getattr(executor, "python", None))


def _try_store(store: Store) -> str:
    """Return what is wrong with a store; empty when files can be read back, and a second writer is blocked."""
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
    """Return whether the remote Luthier has the same code, where its Python is a path on this machine, too."""
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


def _run_process(workspace: Workspace, store: Store) -> tuple[MachineReport | str, float]:
    """Return the report of a process on this machine, or why there is none; and the seconds."""
    task, begun_at = _make_task(workspace), time.monotonic()
    command = python_command("-m", "luthier", "make", "-")
    environment = {**os.environ, **workspace.environment}
    try:
        process = subprocess.run(  # noqa: S603  # this very program
            command, input=task.model_dump_json(), env=environment, capture_output=True, text=True,
            timeout=_JOB_S, check=False,
        )  # fmt: skip
        report = store.read_file(task.report)
        if report:
            return MachineReport.model_validate_json(report), time.monotonic() - begun_at
        return _take_tail(process.stderr) or f"ended with code {process.returncode}", time.monotonic() - begun_at
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__, time.monotonic() - begun_at
    finally:
        store.remove_file(task.report)
        shutil.rmtree((store.root / task.report).parent, ignore_errors=True)


def _run_job(workspace: Workspace, store: Store, executor: BatchExecutor) -> tuple[MachineReport | str, float]:
    """Return a job's report, or why there is none; and the seconds. The job is removed in any case."""
    task, begun_at = _make_task(workspace), time.monotonic()
    folder = Path(task.report).parent
    name, file, output = f"luthier-{task.name}", str(folder / "task.json"), store.root / folder / "output.log"
    write_atomically(store.root / file, task.model_dump_json().encode())
    found: MachineReport | str = ""
    try:
        store.send_file(file)
        base = store.location if is_remote(store.location) else str(store.root.absolute())
        executor.submit(BatchJob(name, task.model_dump_json(), output, f"{base}/{file}"))
        found = _await_report(store, executor, name, task)
        if isinstance(found, str):
            own = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
            tail = _take_tail(own or executor.read_output(name))
            found = f"{found}: {tail}" if tail else found
    except LuthierError as error:
        found = error.message
    finally:
        seconds = time.monotonic() - begun_at
        try:
            executor.cancel_job(name)
        except LuthierError as error:
            before = f"{found}; " if isinstance(found, str) and found else ""
            found = f"{before}the job {name} may be left: {error.message}"
        for path in (task.report, file):
            store.remove_file(path)
        shutil.rmtree(store.root / folder, ignore_errors=True)
    return found, seconds


def _await_report(store: Store, executor: BatchExecutor, name: str, task: MachineTask) -> MachineReport | str:
    deadline, ended_at, state = time.monotonic() + _JOB_S, 0.0, "was not seen"
    while time.monotonic() < deadline:
        if report := store.read_file(task.report):
            return MachineReport.model_validate_json(report)
        status = executor.find(name)
        if status is None or status.state == "ended":
            reason = "" if status is None else status.reason
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at >= executor.grace_s:
                return f"the job ended without a report ({reason or 'the scheduler does not know it'})"
        else:
            ended_at, state = 0.0, f"is {status.state}" + (f" ({status.reason})" if status.reason else "")
            if _HOPELESS.search(status.reason):
                break
        time.sleep(executor.poll_s)
    return f"the job {state} and was removed"


def _make_task(workspace: Workspace) -> MachineTask:
    return MachineTask(name=secrets.token_hex(8), folder=workspace.folder.absolute(), store=workspace.store)


def _take_tail(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-_TAIL:])


def _check_report(executor: Executor, found: MachineReport | str, seconds: float) -> Iterator[HealthCheck]:
    """The findings of a job."""
    image = getattr(executor, "image", None) or getattr(executor, "environment", None)
    if isinstance(found, str):
        hint = f"try the image: {image}" if image else "see the output of the scheduler"
        yield HealthCheck("missing", "job", f"after {seconds:.0f} s: {found}", hint)
        return
    started = f" in {image}" if image else ""
    yield HealthCheck("good", "job", f"luthier started{started}, and reported after {seconds:.1f} s")
    same = (found.version, found.code) == (__version__, code_revision(Step.__module__))
    came = f"the job has luthier {found.version}, " + ("the same code" if same else "other code")
    yield HealthCheck("good" if same else "missing", "code", came, "" if same else "install the same Luthier there")
    good = "files come back, and one at a time may write"
    hint = "take another place for it: LUTHIER_STORE" if found.store else ""
    yield HealthCheck("missing" if found.store else "good", "store of the job", found.store or good, hint)
    kind = "AMX" if found.has_amx else "bfloat16 in hardware" if found.has_bf16 else "no bfloat16 in hardware"
    came = f"{found.cores} cores, {found.memory / 2**30:.1f} GiB, {kind}"
    yield HealthCheck("good" if found.has_bf16 else "note", "processor of the job", came)
    asks = bool(getattr(executor, "gpus", None) or getattr(executor, "accelerators", None))
    state: State = "good" if found.gpus else "missing" if asks else "note"
    came = ", ".join(found.gpus) or "PyTorch sees none" + ("" if asks else "; the CPU is used")
    hint = "take an image with the NVIDIA libraries, and a machine with the driver" if state == "missing" else ""
    yield HealthCheck(state, "GPU of the job", came, hint)


def write_machine_report(task: MachineTask) -> str:
    """Check this machine for a remote run; returns the report's location in the store."""
    import torch

    from luthier.models.load import cpu_has_amx, cpu_has_bf16

    store = task.workspace.open_store()
    report = MachineReport(
        version=__version__,
        code=code_revision(Step.__module__),
        store=_try_store(store),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory_bytes(),
        has_amx=cpu_has_amx(),
        has_bf16=cpu_has_bf16(),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
    )
    write_atomically(store.root / task.report, report.model_dump_json().encode())
    store.send_file(task.report)
    return task.report
