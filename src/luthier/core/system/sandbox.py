"""Running a program that nobody has read: in a process of its own, without network, writing, or other processes.

What is held, and by what:

- no network, no other process, no signal to one, no file written, made, renamed or removed, no shared memory: by the
  kernel (a seccomp filter, which a program cannot take off, root or not);
- memory, processor time, size of files and open files: by the kernel (rlimits, which cannot be raised from inside);
- wall time: from outside, by killing the process;
- output: thrown away, but for the text in its variable `answer`; the environment is empty, and the working folder is
  an empty one.

What is not: the program may *read* every file that its user may read (it can tell nobody); it shares the kernel, so
that a hole in the kernel is a hole here; it can use up what its limits allow; and a program made to cheat can look for
the word by which the end of its tests is reported. For programs of a stranger who means harm, use a virtual machine.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import InputError

_LOCKED = b"locked\n"
MAX_PARALLEL = 2
"""Programs that run at the same time."""


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What a program may use."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 512


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended."""

    passed: bool
    """Whether it ran to its end without an error."""
    why: str = ""
    """What stopped it."""
    answer: str = ""
    """What its variable `answer` was when it ended, when there is one."""


def run(program: str, limits: SandboxLimits) -> SandboxResult:
    """Run a Python program (standard library only); `InputError` where this machine cannot lock it in."""
    word = secrets.token_hex(16)
    task = {"program": program, "word": word, "memory_bytes": limits.memory_mb << 20, "cpu_s": limits.cpu_s}
    inside = Path(__file__).with_name("sandbox_child.py")
    with tempfile.TemporaryDirectory(prefix="luthier-sandbox-") as folder:
        process = subprocess.Popen(  # noqa: S603 - our own file, locked before it runs anything
            [sys.executable, "-I", "-S", "-B", str(inside)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(task).encode(), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return SandboxResult(False, f"stopped after {limits.wall_s:g} s")
    return _parse_result(output, word, process.returncode)


def run_sandbox_programs(programs: Sequence[str], wall_s: float) -> list[SandboxResult]:
    """Run programs in the sandbox; returns how each ended and the value of its variable `answer`."""
    limits = SandboxLimits(wall_s=wall_s, cpu_s=max(1, round(wall_s)))
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))


def _parse_result(output: bytes, word: str, code: int) -> SandboxResult:
    if not output.startswith(_LOCKED):
        why = output.decode(errors="replace").removeprefix("unlocked: ") or f"ended with {code} before it was locked"
        raise InputError(f"programs cannot be run safely here: {why}", hint="run them on Linux (x86_64) with seccomp")
    rest = output.removeprefix(_LOCKED).decode(errors="replace")
    if rest.startswith(word) and code == 0:
        return SandboxResult(True, answer=rest.removeprefix(word))
    ended = f"killed by signal {-code}" if code < 0 else f"left with {code} before its end"
    return SandboxResult(False, rest.replace(word, "") or ended)
