"""The process that makes a job's recipe: `luthier run`, in a group of its own, politely behind what is being served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.system.process import is_process_gone, python_command, unique_process_name_of

SAID, LOG, BASE = "said.json", "log.txt", "base"
_NICE = "10"
_TAIL = 2000


class ProcessOutcome(NamedTuple):
    """The outcome of a run."""

    artifacts: Mapping[str, str] | None = None
    """Digests by step; None when it did not come to its end."""
    error: Mapping[str, Any] | None = None
    """Its error; None when it was killed."""


class JobProcess:
    """The process of a running job: started by this server, or found again after a restart."""

    def __init__(self, folder: Path, name: str, child: subprocess.Popen[bytes] | None = None) -> None:
        self.folder, self.name, self._child = folder, name, child

    @classmethod
    def start(
        cls, recipe: Path, store: str, *, folder: Path, overrides: Sequence[str] = (), on: Sequence[str] = ()
    ) -> JobProcess:
        """Start a run, or resume an earlier one; its output goes into a folder. `on` are arguments of `--on`."""
        words = _words("run", str(recipe), *overrides, *(f"--on={word}" for word in on), "--json")
        with translate_write_errors(folder):
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with (folder / SAID).open("wb") as output, (folder / LOG).open("ab") as log:
                child = subprocess.Popen(  # noqa: S603  # this very program
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                    env={**os.environ, "LUTHIER_STORE": store}, start_new_session=True,
                )  # fmt: skip
        return cls(folder, unique_process_name_of(child.pid), child)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._child.poll() is not None if self._child is not None else is_process_gone(self.name)

    def outcome(self) -> ProcessOutcome:
        """Its outcome, once it has ended."""
        with suppress(OSError, ValueError):
            output = json.loads((self.folder / SAID).read_bytes())
            if "steps" in output:
                return ProcessOutcome(artifacts={name: step["artifact"] for name, step in output["steps"].items()})
            if output["error"]["kind"] != "Interrupted":
                return ProcessOutcome(error=output["error"])
        return ProcessOutcome()

    def tell(self, how: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        signal_process_group(self.name, how)


def export_merged_model(model: str, folder: Path, store: str) -> Path:
    """Export a tuned model with its adapter merged into a job's folder, as the base that the job trains from;
    `ModelError` when that fails."""
    to = folder.absolute() / BASE
    if not to.is_dir():
        aside = to.with_name(f"{BASE}.part")
        shutil.rmtree(aside, ignore_errors=True)
        words = _words("export", model, "--to", str(aside), "--format", "merged")
        process = subprocess.run(  # noqa: S603  # this very program
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**os.environ, "LUTHIER_STORE": store},
        )  # fmt: skip
        if process.returncode:
            what = f"the model cannot be gone on from: {process.stderr.strip()[-_TAIL:]}"
            raise ModelError(
                what, where=SourceLocation(field="model"), hint="take the base model that it was tuned from"
            )
        with translate_write_errors(to):
            aside.rename(to)
    return to


def _words(*args: str) -> list[str]:
    """This program's own command, politely."""
    polite = [nice, "-n", _NICE] if (nice := shutil.which("nice")) else []
    return [*polite, *python_command("-m", "luthier", *args)]


def signal_process_group(name: str, how: signal.Signals) -> None:
    """Send a signal to the group of a process that is known by name; one that is gone is let be."""
    if is_process_gone(name):
        return
    host, _, space, number, _ = name.split("|")
    mine = unique_process_name_of(os.getpid()).split("|")
    if (host, space) == (mine[0], mine[2]):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(int(number), how)


def read_log_tail(folder: Path) -> str:
    """The end of what a run wrote to its log."""
    with suppress(OSError):
        return (folder / LOG).read_bytes()[-_TAIL:].decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
    return ""
