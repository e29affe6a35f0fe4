"""Steps made by managed jobs of SkyPilot, by its own command `sky` (0.12 or newer).

SkyPilot's pins exclude ours, so that it is a program of an environment of its own. A task is a YAML file that is
written from data, never from text; the step's task is a here-document that the shell does not read.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from luthier.core.errors import MissingExtra, SourceLocation, SystemResourceError
from luthier.core.store import Store
from luthier.recipe.batch import BatchExecutor, BatchJob, JobStatus, refuse_passwords, require_remote_store
from luthier.recipe.scheduler_api import SchedulerTimeoutError

_STATES: dict[str, Literal["pending", "running"]] = {
    "PENDING": "pending", "SUBMITTED": "pending", "STARTING": "pending", "RECOVERING": "pending",
    "RUNNING": "running", "WINDING_DOWN": "running", "CANCELLING": "running",
}  # fmt: skip
"""SkyPilot's states of running and waiting jobs; all others have ended."""
_SECONDS, _LAUNCH_S = 180.0, 1800.0
"""Timeouts of `sky`, and of a launch: the first one creates the controller of managed jobs."""
_OUTPUT_LINES = 20
_CACHE, _TASK = "/tmp/luthier-cache", "/tmp/luthier-task.json"  # noqa: S108  # on the job's own machine
_NO_CONTROLLER = re.compile(r"ClusterNotUpError|No in-progress managed jobs|controller .{0,80}(is stopped|not found)")
_WHERE = SourceLocation(field="on")


class SkyExecutor(BatchExecutor):
    """In managed jobs of SkyPilot on AWS, Google Cloud, Azure and others: each step is one job, put on another machine
    when its own is taken away.

    The store must be behind a URL that the machines reach. `sky` must be installed in an environment of its own
    (`uv tool install 'skypilot[aws]'`).
    """

    kind: Literal["sky"] = "sky"

    poll_s: float = Field(default=20.0, gt=0)
    """Seconds between two looks at the job; each is a call of `sky`."""
    infra: str | None = None
    """Where: `aws`, `gcp/us-central1`, `azure` or `k8s/CONTEXT`; the cheapest place when not given."""
    accelerators: str | None = None
    """GPUs of the machine, such as `A100:1`; none when not given."""
    cpus: str | None = None
    """Processors of the machine, such as `8` or `8+` (at least)."""
    memory: str | None = None
    """Memory of the machine in GB, such as `32` or `32+` (at least)."""
    disk_gb: int | None = Field(default=None, ge=1)
    """Disk of the machine in GB; SkyPilot's default when not given."""
    spot: bool = True
    """Whether machines may be taken away, which makes them cheaper."""
    image: str | None = None
    """The image of the machine, such as `docker:registry.example.org/luthier:1.0`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a machine runs first, such as `pip install luthier[s3]==1.0`."""
    python: str = "python"
    """The Python on the machine in which Luthier is installed."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables of this process that the job gets as secrets, such as `HF_TOKEN`."""
    upload: bool = True
    """Whether the recipe's folder is copied to the machine, to the same path; `.skyignore` in it says what stays."""
    checkpoints: str | None = None
    """A bucket (`s3://`, `gs://`) that is mounted as the job's cache, so that checkpoints outlive the machine; a step
    begins anew on another machine when not given."""
    program: str = "sky"
    """The command of SkyPilot."""

    @field_validator("accelerators")
    @classmethod
    def _counted(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.-]+(:[0-9]+)?", value):
            raise ValueError(f"expected GPUs such as A100:1, got {value!r}")
        return value

    @field_validator("infra", "cpus", "memory", "image", "checkpoints")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.,:/@+*-]+", value):
            raise ValueError(f"expected one word of letters, digits and .,:/@+*-, got {value!r}")
        return value

    @field_validator("secrets")
    @classmethod
    def _variables(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
                raise ValueError(f"expected the name of a variable, got {value!r}")
        return values

    def check_reach(self, folder: Path, store: Store) -> None:
        """`InputError` for a store on this machine."""
        require_remote_store(store, folder)

    def find_machine(self) -> tuple[str, int] | None:
        """Return the requested GPUs."""
        if self.machine is None and self.accelerators is not None:
            name, _, count = self.accelerators.partition(":")
            return name, self.nodes * int(count or 1)
        return super().find_machine()

    def submit(self, job: BatchJob) -> None:
        """Write the task's YAML and hand it to `sky jobs launch`."""
        refuse_passwords(job.task, "SkyPilot")
        with tempfile.TemporaryDirectory(prefix="luthier-sky-") as folder:
            path = Path(folder) / "task.yaml"
            path.write_text(self.render_task(job), encoding="utf-8")
            secrets = [word for name in self.secrets for word in ("--secret", name)]
            options = ["--name", job.name, "--detach-run", "--yes", *secrets]
            self._call(["jobs", "launch", *options, str(path)], _LAUNCH_S)

    def render_task(self, job: BatchJob) -> str:
        """The job as SkyPilot's YAML."""
        resources = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "cpus": self.cpus,
            "memory": self.memory,
            "disk_size": self.disk_gb,
            "image_id": self.image,
            "use_spot": self.spot,
        }
        folder = str(json.loads(job.task)["folder"])
        mounts: dict[str, Any] = {folder: folder} if self.upload else {}
        if self.checkpoints is not None:
            mounts[_CACHE] = {"source": self.checkpoints, "mode": "MOUNT_CACHED"}
        run = [f"{self._make('-')} <<'LUTHIER_TASK'", job.task, "LUTHIER_TASK", ""]
        if self.is_group:  # each process of a group reads the task, so that it is a file
            made = self._make("--processes", str(self.processes_per_node), _TASK)
            run = [f"cat > {_TASK} <<'LUTHIER_TASK'", job.task, "LUTHIER_TASK", made, ""]
        task = {
            "name": job.name,
            **({"num_nodes": self.nodes} if self.nodes > 1 else {}),
            "resources": {name: value for name, value in resources.items() if value is not None},
            **({"file_mounts": mounts} if mounts else {}),
            **({"envs": {"LUTHIER_CACHE": _CACHE}} if self.checkpoints is not None else {}),
            **({"setup": "\n".join(["set -e", *self.setup, ""])} if self.setup else {}),
            "run": "\n".join(["set -e", *run]),
        }
        return yaml.safe_dump(task, sort_keys=False)

    def _make(self, *words: str) -> str:
        return shlex.join([self.python, "-P", "-m", "luthier", "make", *words])

    def find(self, name: str) -> JobStatus | None:
        """The newest job of the name in SkyPilot's queue."""
        records = [record for record in self._read_queue() if record.get("job_name") == name]
        if not records:
            return None
        newest = max(records, key=lambda record: int(record.get("job_id") or 0))
        state = str(newest.get("status"))
        reason = newest.get("failure_reason") or newest.get("details")
        return JobStatus(_STATES.get(state, "ended"), f"{state}: {reason}" if reason else state)

    def _read_queue(self) -> list[dict[str, Any]]:
        try:
            text = self._call(["jobs", "queue", "--all", "--verbose", "--output", "json"], _SECONDS)
        except SystemResourceError as error:
            if _NO_CONTROLLER.search(error.message):  # it is stopped while there are no jobs
                return []
            raise
        start = re.search(r"^\[", text, re.MULTILINE)  # notices may come before it
        try:
            found = json.loads(text[start.start() :]) if start else None
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, list):
            hint = "SkyPilot 0.12 or newer prints it: `sky jobs queue --output json`"
            raise SystemResourceError("`sky jobs queue` printed no list of jobs", where=_WHERE, hint=hint)
        return found

    def cancel_job(self, name: str) -> None:
        """`sky jobs cancel` by name, where one waits or runs: its machine is removed."""
        status = self.find(name)
        if status is not None and status.state != "ended":
            self._call(["jobs", "cancel", "--name", name, "--yes"], _SECONDS)

    def read_output(self, name: str) -> str:
        """The end of the newest job's log."""
        options = ["--name", name, "--no-follow"]
        try:
            return "\n".join(self._call(["jobs", "logs", *options], _SECONDS).splitlines()[-_OUTPUT_LINES:])
        except SystemResourceError:  # the log is gone with its machine: nothing is known of it
            return ""

    def _call(self, words: list[str], seconds: float) -> str:
        """Return the output of `sky`; `SystemResourceError` when it fails or times out."""
        program = shutil.which(self.program)
        if program is None:
            hint = "install it apart from Luthier: `uv tool install 'skypilot[aws]'` or `pipx install 'skypilot[aws]'`"
            raise MissingExtra(f"the program {self.program!r} is not installed", where=_WHERE, hint=hint)
        named = f"sky {words[0]} {words[1]}"
        try:
            process = subprocess.run(  # noqa: S603  # SkyPilot's own command, with arguments and no shell
                [program, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            hint = "try `sky api info`; running again finds a job that was launched"
            raise SchedulerTimeoutError(
                f"`{named}` said nothing for {seconds:.0f} s", where=_WHERE, hint=hint
            ) from error
        if process.returncode != 0:
            output = "\n".join((process.stderr.strip() or process.stdout.strip()).splitlines()[-_OUTPUT_LINES:])
            hint = "`sky check` tells which clouds can be used"
            message = f"`{named}` refused: {output or f'exit code {process.returncode}'}"
            raise SystemResourceError(message, where=_WHERE, hint=hint)
        return process.stdout
