"""Steps made by jobs of Slurm, by its own commands (`sbatch`, `squeue`, `scontrol`, `scancel`)."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from luthier.core.errors import InputError, SourceLocation, SystemResourceError
from luthier.recipe.batch import BatchExecutor, BatchJob, JobStatus
from luthier.recipe.scheduler_api import SchedulerTimeoutError

_STATES: dict[str, Literal["pending", "running", "ended"]] = {
    "PENDING": "pending", "CONFIGURING": "pending", "REQUEUED": "pending", "REQUEUE_HOLD": "pending",
    "SUSPENDED": "pending", "RESV_DEL_HOLD": "pending", "SPECIAL_EXIT": "pending", "RUNNING": "running",
    "COMPLETING": "running", "STAGE_OUT": "running", "SIGNALING": "running", "RESIZING": "running",
}  # fmt: skip
"""Slurm's states of running and waiting jobs; all others have ended."""
_WARNING_S = 60
"""Seconds before the time limit at which a job is signalled to write a checkpoint."""
_ENVIRONMENT = """
export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS" LOCAL_RANK="$SLURM_LOCALID"
export LOCAL_WORLD_SIZE="$((SLURM_NTASKS / SLURM_NNODES))"
export MASTER_ADDR="$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)"
export MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
exec "$@"
"""
"""Sets torchrun's variables from Slurm's in each process of a group."""
_SECONDS = 60.0
"""Timeout of a Slurm command."""


class SlurmExecutor(BatchExecutor):
    """In jobs of a Slurm cluster: each step is one job, put back into the queue when its node is lost or taken.

    The store must lie on a file system that the nodes share, or behind a URL that they reach; the recipe's folder, too.
    A job that is told to stop keeps its checkpoints, and goes on from them when it starts again.
    """

    kind: Literal["slurm"] = "slurm"

    partition: str | None = None
    """The partition; the cluster's default when not given."""
    account: str | None = None
    """Whom the job is charged to; the user's default when not given."""
    qos: str | None = None
    """The quality of service."""
    cpus: int | None = Field(default=None, ge=1)
    """Processors of each process of a job; the cluster's default when not given."""
    memory: str | None = None
    """Memory of a job on each node, such as `8G`; the cluster's default when not given."""
    gpus: int | None = Field(default=None, ge=1)
    """GPUs of a job, on all its nodes; none when not given."""
    hours: float | None = Field(default=None, gt=0)
    """Hours after which a job ends; the partition's limit when not given. It is told a minute before."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a job runs first, such as `module load python` or `source venv/bin/activate`."""
    python: str | None = None
    """The Python on the nodes in which Luthier is installed; this one when not given."""

    @field_validator("partition", "account", "qos", "memory")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.,:@+-]+", value):
            raise ValueError(f"expected one word of letters, digits and .,:@+-, got {value!r}")
        return value

    def reaches(self, path: Path) -> bool:
        """The nodes share the file system of this machine."""
        return True

    def submit(self, job: BatchJob) -> None:
        """Hand the job to `sbatch`, with its script on standard input."""
        options = {
            "job-name": job.name,
            "output": str(job.output),
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "gpus": self.gpus,
            "nodes": self.nodes if self.is_group else None,
            "ntasks-per-node": self.processes_per_node if self.is_group else None,
            "time": None if self.hours is None else max(1, round(60 * self.hours)),
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        fixed = ["--parsable", "--requeue", "--open-mode=append", f"--signal=B:TERM@{_WARNING_S}"]
        fixed.append("--dependency=singleton")  # a second job of the name waits for the first, and finds the artifact
        _call(["sbatch", *fixed, *given], self._script(job))

    def count_devices(self) -> int:
        """GPUs of one node."""
        return max(1, (self.gpus or 0) // self.nodes) if self.gpus else self.processes_per_node

    def _script(self, job: BatchJob) -> str:
        """Return a job's script: the task is quoted against the shell; `srun` passes it to each process of a group."""
        make = shlex.join([self.python or sys.executable, "-P", "-m", "luthier", "make", "-"])
        if self.is_group:
            make = f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(_ENVIRONMENT)} luthier {make}"
        return "\n".join(
            ["#!/bin/bash", "set -e", *self.setup, f"exec {make} <<'LUTHIER_TASK'", job.task, "LUTHIER_TASK", ""]
        )

    def find(self, name: str) -> JobStatus | None:
        """The newest job of the name: of those that wait and run, else of those that Slurm still remembers."""
        found = _call(["squeue", "--noheader", "--me", "--states=all", f"--name={name}", "--format=%i|%T|%r"])
        jobs = [line.split("|", 2) for line in found.splitlines() if line.count("|") >= 2]
        if not jobs:
            return None
        _, state, reason = max(jobs, key=lambda job: _number(job[0]))
        meaning = _STATES.get(state, "ended")
        return JobStatus(meaning, reason.replace("None", "") if meaning == "pending" else state)

    def cancel_job(self, name: str) -> None:
        """`scancel` by name: the job is signalled, and killed when it does not end."""
        _call(["scancel", "--me", "--batch", "--signal=TERM", f"--name={name}"])
        _call(["scancel", "--me", f"--name={name}"])


def _number(job: str) -> int:
    """The number of a job from its id."""
    digits = re.match(r"\d+", job)
    return int(digits[0]) if digits else 0


def _call(command: list[str], text: str | None = None) -> str:
    """Return the output of a Slurm command; `SystemResourceError` when it fails or times out."""
    if shutil.which(command[0]) is None:
        hint = "install Slurm's client commands, or run on a login node of the cluster"
        raise InputError(f"there is no {command[0]} here", where=SourceLocation(field="on"), hint=hint)
    try:
        process = subprocess.run(  # noqa: S603  # Slurm's own command, with arguments and no shell
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"{command[0]} said nothing for {_SECONDS:.0f} s"
        raise SchedulerTimeoutError(message, hint="see whether slurmctld is up: `scontrol ping`") from error
    if process.returncode != 0:
        message = f"{command[0]} refused: {process.stderr.strip() or f'exit code {process.returncode}'}"
        raise SystemResourceError(message, hint="see whether slurmctld is up: `scontrol ping`")
    return process.stdout
