"""Which process this is, so that another one can later tell whether it still lives; its memory, and its processor."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def me() -> str:
    """A name for this process that no later one bears: host, boot and process namespace, number, start."""
    return named(os.getpid())


def named(number: int) -> str:
    """The name of a process on this machine that is alive."""
    return "|".join((platform.node(), _boot(), _space(), str(number), _started(number)))


def is_gone(name: str) -> bool:
    """Whether a named process is certainly over; False also when it ran where we cannot see."""
    host, boot, space, number, started = name.split("|")
    if host != platform.node():
        return False
    if boot != _boot():
        return True  # the machine was started anew since
    return space == _space() and _started(int(number)) != started


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""What `malloc.h` calls them."""
_KEPT_BYTES = 32 << 20


def reuse_memory() -> None:
    """Let the C library (glibc) keep what is freed for what is asked next; before much of a like size comes and goes.

    It raises these thresholds by itself, up to these values, but only as far as what was freed so far was large: below,
    it gives memory back to the system and asks for it again, which clears every page each time.
    """
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


def release_memory() -> None:
    """Give what was freed back to the system, where the C library keeps it (glibc); after large copies were made."""
    if (trim := _of_libc("malloc_trim")) is not None:
        trim(0)


def share_processors() -> None:
    """Let threads that wait for each other spin a moment, then sleep.

    Tuning on two cores was seen a fifth quicker than with threads that sleep at once, and as quick beside one busy
    program, where threads that go on spinning lose most of the time. OpenMP reads this when torch is loaded; what the
    user has set stays. The same holds for OpenBLAS, by which SciPy fits the plain classifiers: its threads spin for
    2^26 ticks of the processor unless told, and a fit of a third of a second took twelve beside busy programs.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "12")


def _of_libc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def resident_bytes() -> int:
    """Memory that this process holds now, what the C library keeps for later included; 0 where nothing tells."""
    try:
        return int((_PROC / "self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def processor() -> list[str]:
    """What this processor can do, as Linux names it: a library made for it does not run on a lesser one."""
    told = _PROC / "cpuinfo"
    lines = (
        told.read_text(encoding="utf-8", errors="replace").splitlines() if told.is_file() else [platform.processor()]
    )
    return sorted({word for line in lines if line.startswith(("flags", "Features")) for word in line.split()})


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "?"


def _space() -> str:
    try:
        return str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return "?"


def _started(number: int) -> str:
    """When a process started, in ticks since boot; empty when there is none of that number."""
    try:
        text = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _lives(number)
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _lives(number: int) -> str:
    """Without `/proc`: only whether a process of that number lives."""
    if _PROC.is_dir():
        return ""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "?"
    return "?"
