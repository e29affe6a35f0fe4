"""Which process this is, and whether another one is over."""

from __future__ import annotations

import os
import platform
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

import luthier
from luthier.core.system.process import get_unique_process_name, get_user_name, is_process_gone, python_command

SAY = """
import sys
from luthier.core.system.process import get_unique_process_name
print(get_unique_process_name(), flush=True)
sys.stdin.read()
"""


def test_a_process_lives_until_it_is_over() -> None:
    process = subprocess.Popen([sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert not is_process_gone(name)
    process.kill()
    process.communicate()
    assert is_process_gone(name)


def test_this_process_is_not_gone_and_always_has_the_same_name() -> None:
    assert get_unique_process_name() == get_unique_process_name()
    assert not is_process_gone(get_unique_process_name())


def test_a_number_given_to_another_process_is_not_the_same_process() -> None:
    host, boot, space, number, started = get_unique_process_name().split("|")
    assert is_process_gone("|".join((host, boot, space, number, f"{int(started) - 1}")))


def test_an_earlier_boot_is_over_and_another_host_is_unknown() -> None:
    host, _, space, number, started = get_unique_process_name().split("|")
    assert is_process_gone("|".join((host, "an-earlier-boot", space, number, started)))
    assert not is_process_gone("|".join(("another-host", "boot", space, number, "1")))
    assert not is_process_gone(
        "|".join((host, get_unique_process_name().split("|")[1], "another-container", "999999", "1"))
    )


HOLES = """
from pathlib import Path
from luthier.core.system.process import trim_malloc_heap
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
held_back = [b"x" * 60_000 for _ in range(2_000)]
last = held_back.pop()
held_back.clear()
before = held()
trim_malloc_heap()
print(before - held())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="tells memory by /proc")
def test_freed_memory_goes_back_although_something_stands_behind_it() -> None:
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 50_000_000


FAULTS = """
import resource
from luthier.core.system.process import raise_malloc_thresholds
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [bytearray(1 << 20) for _ in range(8)]
        held.clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
raise_malloc_thresholds()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps what is freed by its own rules")
def test_what_comes_and_goes_is_not_asked_of_the_system_each_time() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, told.stdout.split())
    assert after < before / 10


def test_a_user_without_a_name_is_known_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as any number."""
    monkeypatch.setattr("getpass.getuser", lambda: pwd.getpwuid(4_000_000_000)[0])
    assert get_user_name() == f"uid-{os.getuid()}"


@pytest.mark.regression
def test_a_child_python_never_imports_a_file_of_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the file of the folder ran')")
    command = python_command("-c", "import json; print(json.dumps('ours'))")
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told == '"ours"\n'


@pytest.mark.regression
def test_every_child_python_is_started_by_the_one_function() -> None:
    source = Path(luthier.__file__).parent
    spelled = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.py"))
               if re.search(r"sys\.executable,\s*\"-[mc]", path.read_text(encoding="utf-8"))]  # fmt: skip
    assert spelled == []
