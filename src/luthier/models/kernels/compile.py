"""Compiles the kernels' library once for a user, a compiler and a processor; a failed trial is remembered, too."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from luthier.core.errors import SystemResourceError
from luthier.core.files import cache_folder
from luthier.core.hashing import digest_of
from luthier.core.system.process import cpu_features

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = (
    "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)  # fmt: skip
IN_ANY_ORDER = ("-fno-signed-zeros", "-fassociative-math")
"""Flags that let the compiler reorder sums."""
AS_WRITTEN = "-ffp-contract=off"
"""Rounds as in the source, so that the same line gives the same bits however it is unrolled."""
_LONGEST_S = 120


class CompiledLibrary(NamedTuple):
    """A library, and a name for what determines its bits: source, compiler, flags, processor."""

    name: str
    file: Path


def find_c_compiler() -> str | None:
    """Return the command of this machine's C compiler (`CC`, or the first that is found); None when there is none."""
    if command := os.environ.get("CC"):
        return command
    return next((path for name in _COMPILERS if (path := shutil.which(name))), None)


def compile_library(source: str, is_worth_it: Callable[[CompiledLibrary], bool], *flags: str) -> CompiledLibrary | None:
    """Compile a C source next to this file and run its trial, unless that was done before.

    None where it cannot be compiled or fails its trial.
    """
    from filelock import FileLock

    command, code = find_c_compiler(), Path(__file__).with_name(source)
    version = _version(command) if command else None
    if command is None or version is None:
        return None
    compile_flags = (*_FLAGS, *flags)
    read = [path.read_text(encoding="utf-8") for path in (code, *sorted(code.parent.glob("*.h")))]
    name = digest_of([*read, version, compile_flags, platform.machine(), cpu_features()])[:16]
    file = cache_folder() / "kernels" / f"{name}.so"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                _make([*shlex.split(command), *compile_flags, str(code)], CompiledLibrary(name, file), is_worth_it)
            return CompiledLibrary(name, file) if file.stat().st_size else None
    except (OSError, SystemResourceError):
        return None  # where it cannot be remembered it is not used: a run and its resume would differ


def _make(command: list[str], target: CompiledLibrary, is_worth_it: Callable[[CompiledLibrary], bool]) -> None:
    """Compile and try; an empty file records a failure."""
    aside = target.file.with_suffix(f".{os.getpid()}.tmp")
    done = _get_output([*command, "-o", str(aside), "-lm"])
    if done is None or not is_worth_it(CompiledLibrary(target.name, aside)):
        aside.unlink(missing_ok=True)  # it may be open still: what is open is not cut
        aside.write_bytes(b"")
    aside.replace(target.file)


@cache
def _version(command: str) -> str | None:
    return _get_output([*shlex.split(command), "--version"])


def _get_output(command: list[str]) -> str | None:
    """Return a program's output; None when it fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=True)  # noqa: S603 - the user's own compiler, no shell
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout
