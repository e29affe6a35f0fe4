"""Programs that try to get out: each limit is met by one that would pass if it did not hold."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

import pytest

from luthier.core.system import sandbox_child
from luthier.core.system.sandbox import SandboxLimits, run

QUICK = SandboxLimits(wall_s=5, cpu_s=2, memory_mb=256)
pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the sandbox needs Linux on x86_64"
)


def why(program: str, limits: SandboxLimits = QUICK) -> str:
    """What stopped a program; a program that gets through says `passed`."""
    found = run(program, limits)
    return "passed" if found.passed else found.why


def test_a_program_that_does_no_harm_passes() -> None:
    assert (
        why("import math, json, re, collections, itertools, random, datetime\nassert math.comb(4, 2) == 6") == "passed"
    )


def test_threads_and_output_do_no_harm() -> None:
    told = "import threading\nt = threading.Thread(target=print, args=('x' * 10**6,)); t.start(); t.join()"
    assert why(told) == "passed"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "left with 0 before its end"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
    ],
)
def test_a_program_that_fails(program: str, said: str) -> None:
    assert said in why(program)


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import ctypes; assert ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0, 'Operation not permitted'",
        "import ctypes; assert ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) >= 0, 'Operation not permitted'",
        "import ctypes; assert ctypes.CDLL(None).syscall(425, 8, 0) >= 0, 'Operation not permitted'",
    ],
    ids=["tcp", "unix", "pair", "url", "raw", "x32", "io_uring"],
)
def test_no_network(program: str) -> None:
    assert "not permitted" in why(program)


def test_nobody_hears_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        assert why(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))") != "passed"
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "act",
    [
        "open(path, 'w')",
        "open(path, 'a')",
        "open(path, 'r+')",
        "os.open(path, os.O_RDONLY | os.O_CREAT)",
        "os.open(path, os.O_RDONLY | os.O_TRUNC)",
        "os.unlink(path)",
        "os.rename(path, path + '2')",
        "os.link(path, path + '2')",
        "os.symlink(path, path + '2')",
        "os.mkdir(path + '2')",
        "os.truncate(path, 0)",
        "os.chmod(path, 0)",
        "os.utime(path)",
        "os.mkfifo(path + '2')",
        "os.memfd_create('x')",
    ],
)
def test_no_file_is_touched(act: str, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("as it was")
    before = path.stat()
    assert "not permitted" in why(f"import os\npath = {str(path)!r}\n{act}")
    assert path.read_text() == "as it was"
    assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "act",
    ["os.fork()", "os.execv('/bin/true', ['true'])", "os.kill(PARENT, 0)", "os.kill(-1, 0)",
     "subprocess.run(['/bin/true'])", "os.posix_spawn('/bin/true', ['true'], {})"],
)  # fmt: skip
def test_no_other_process(act: str) -> None:
    assert "not permitted" in why(f"import os, subprocess\n{act.replace('PARENT', str(os.getpid()))}")


def test_memory() -> None:
    assert "MemoryError" in why("x = bytearray(400 << 20)")
    assert why("x = bytearray(100 << 20)") == "passed"


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE"])
def test_limits_cannot_be_raised(name: str) -> None:
    told = f"import resource; resource.setrlimit(resource.{name}, (1 << 40, 1 << 40))"
    assert "not" in why(told)


def test_processor_time_and_wall_time() -> None:
    started = time.monotonic()
    assert "killed by signal" in why("while True: pass", SandboxLimits(wall_s=20, cpu_s=1))
    assert "stopped after 0.5 s" in why("import time; time.sleep(60)", SandboxLimits(wall_s=0.5))
    assert time.monotonic() - started < 19


def test_the_environment_and_the_folder_are_empty() -> None:
    assert why("import os; assert not os.environ.get('HOME') and os.listdir('.') == []") == "passed"


def test_every_rule_is_well_formed() -> None:
    told = sandbox_child.build_seccomp_filter()
    assert len(told) < 4096  # the kernel's most
    assert all(place + max(yes, no) < len(told) for place, (_, yes, no, _) in enumerate(told))
    assert told[-1] == (sandbox_child._RETURN, 0, 0, sandbox_child._ALLOW)
    numbers = [number for kind in sandbox_child.FORBIDDEN.values() for number in kind]
    assert len(numbers) == len(set(numbers))
