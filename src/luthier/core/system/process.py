"""This process: identity, signals, deadlines, memory, futures and quiet libraries.

- The name of a process tells another process later whether it still runs.
- A stop request (Ctrl-C, SIGTERM, a closed terminal) stays set until the program ends, and the next event of a step
  raises it again. Python raises `KeyboardInterrupt` anywhere; a finalizer or a library that catches everything can
  swallow it.
- Work past its deadline raises `TimeoutError` in the caller, also when it hangs.
- A future returns the result of another thread or raises its error in the caller.
- Warnings and progress bars of transformers are off while Luthier calls it; progress goes through events.
- transformers opens one model at a time, since it changes the state of all threads meanwhile (the default dtype,
  weight initialization, weight tying, progress bars).
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from luthier.core.errors import LuthierError

_PROC = Path("/proc")


def get_unique_process_name() -> str:
    """Return an identifier of this process that no later process shares: host, boot, PID namespace, PID and start
    time."""
    return unique_process_name_of(os.getpid())


def get_user_name() -> str:
    """The name of the user of this process; `uid-1000` for a number without a name, as in a container."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def unique_process_name_of(number: int) -> str:
    """The name of a process on this machine that is alive."""
    return "|".join((platform.node(), _boot(), _get_pid_namespace(), str(number), _read_start_time(number)))


def is_process_gone(name: str) -> bool:
    """Whether a named process is certainly over; False also when it ran where we cannot see."""
    host, boot, space, number, started = name.split("|")
    if host != platform.node():
        return False
    if boot != _boot():
        return True  # the machine was started anew since
    return space == _get_pid_namespace() and _read_start_time(int(number)) != started


def get_rank_in_job() -> tuple[int, int]:
    """This process' rank and the number of ranks, as torchrun or an executor tells each process of a job; (0, 1) for
    one that is alone."""
    size = int(os.environ.get("WORLD_SIZE") or 1)
    return (int(os.environ["RANK"]), size) if size > 1 else (0, 1)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""What `malloc.h` calls them."""
_KEPT_BYTES = 32 << 20


def raise_malloc_thresholds() -> None:
    """Raise glibc's malloc thresholds so that freed memory is kept for the next allocations of similar size.

    It raises these thresholds by itself, up to these values, but only as far as what was freed so far was large: below,
    it gives memory back to the system and asks for it again, which clears every page each time.
    """
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


def trim_malloc_heap() -> None:
    """Return freed memory from glibc's heap to the operating system, after large copies."""
    if (trim := _of_libc("malloc_trim")) is not None:
        trim(0)


def python_command(*words: str) -> list[str]:
    """The command line of this Python for a child process, such as `-m luthier new`.

    `-P` keeps the working folder off the import path: a file in it named like a module must not run.
    """
    return [sys.executable, "-P", *words]


def set_thread_wait_policy() -> None:
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


def cpu_features() -> list[str]:
    """What this processor can do, as Linux names it: a library made for it does not run on a lesser one."""
    cpuinfo = _PROC / "cpuinfo"
    lines = (
        cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        if cpuinfo.is_file()
        else [platform.processor()]
    )
    return sorted({word for line in lines if line.startswith(("flags", "Features")) for word in line.split()})


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "?"


def _get_pid_namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return "?"


def _read_start_time(number: int) -> str:
    """When a process started, in ticks since boot; empty when there is none of that number."""
    try:
        text = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _is_alive(number)
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _is_alive(number: int) -> str:
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


_wishes: list[int] = []


def handle_stop_signal(signum: int, frame: FrameType | None = None) -> None:
    """Signal handler: raise the interruption here, and again at `raise_pending_stop` if it was swallowed."""
    _wishes.append(signum)
    raise KeyboardInterrupt


def raise_pending_stop(*, in_any_thread: bool = False) -> None:
    """Raise `KeyboardInterrupt` in the main thread if a stop was requested and its first interruption was lost; with
    `in_any_thread` also in a thread that waits for work which would go on otherwise."""
    is_heard = in_any_thread or threading.current_thread() is threading.main_thread()
    if _wishes and is_heard and not _is_on_its_way():
        raise KeyboardInterrupt


@contextmanager
def clear_stop_requests_at_end() -> Iterator[None]:
    """Forget at the end what was wished: another command in the same process has not been told to stop."""
    try:
        yield
    finally:
        _wishes.clear()


def _is_on_its_way() -> bool:
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def run_into_future(found: Future[T], work: Callable[[], T]) -> None:
    """Do some work here; its result, or what it raises, is the future's."""
    try:
        found.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised again where the work was asked for
        found.set_exception(error)


T = TypeVar("T")


class PluginCallFailed(Exception):
    """Somebody else's part failed, in whatever way; its text says how."""


def run_with_timeout(seconds: float, work: Callable[[], T]) -> T:
    """Do some work; `TimeoutError` when it takes longer.

    In the main thread it is interrupted between two of its own instructions, or within a regular expression. Anywhere
    else, where nothing can interrupt it, it is left to itself in a thread that nobody waits for.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _run_with_alarm(seconds, work)
    return _left_alone(seconds, work)


def call_plugin_with_timeout(seconds: float, work: Callable[[], T]) -> T:
    """The same for parts that may be anybody's: whatever goes wrong there is `PluginCallFailed`, a fault that Luthier
    names itself aside."""
    try:
        return run_with_timeout(seconds, work)
    except LuthierError:
        raise
    except Exception as error:
        raise PluginCallFailed(f"{type(error).__name__}: {error}") from error


def _run_with_alarm(seconds: float, work: Callable[[], T]) -> T:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(_timeout_message(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def _left_alone(seconds: float, work: Callable[[], T]) -> T:
    future = Future[T]()
    threading.Thread(target=run_into_future, args=(future, work), daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise TimeoutError(_timeout_message(seconds))
    return future.result()


def _timeout_message(seconds: float) -> str:
    return f"no end after {seconds:g} s"


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def hide_transformers_output() -> Iterator[None]:
    """Switch transformers' progress bars and warnings off, and back on afterwards; what they say is asked for.

    Another thread that opens a model waits for its turn.
    """
    with _ONE_AT_A_TIME:
        yield from _hide_progress_bars()


def _hide_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
