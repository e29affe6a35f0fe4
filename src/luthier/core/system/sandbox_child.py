"""The inside of the sandbox: a program of its own that locks itself in, runs what it was given, and reports the end.

Started by `luthier.core.system.sandbox` as `python -I -S -B`, so that it needs the standard library only. What may not
be done is refused by the kernel (a seccomp filter), which the program that is run cannot take off.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import sys
from typing import Any

X86_64 = 0xC000003E
"""The kernel's word for this processor (AUDIT_ARCH_X86_64): the numbers below are its."""
FORBIDDEN = {
    "network": (41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 53, 54, 55, 288, 299, 307),
    "processes": (57, 58, 59, 322, 101, 310, 311, 434, 438, 440),
    "signals": (62, 129, 200, 234, 297, 424),
    "files": (76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 188, 189, 190, 197, 198, 199, 235, 258,
              259, 260, 261, 263, 264, 265, 266, 268, 280, 285, 304, 316, 319, 452),
    "shared memory": (29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 240, 241),
    "system": (103, 155, 159, 160, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 227, 246,
               248, 249, 250, 272, 298, 305, 308, 313, 317, 320, 321, 323, 425, 426, 427, 428, 429, 430, 431, 432, 442),
}  # fmt: skip
"""System calls that are refused, by number (Linux, x86_64)."""
_OPEN, _OPENAT, _CLONE, _CLONE3, _OPENAT2, _PRLIMIT = 2, 257, 56, 435, 437, 302
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_THREAD = 0x10000
"""CLONE_THREAD: a thread of this process, not another process."""
LONGEST = 16_000
"""Characters of an answer that are reported: with the word, less than a pipe holds."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def build_seccomp_filter() -> list[tuple[int, int, int, int]]:
    """The filter, one (code, skip if yes, skip if no, value) an instruction; each rule ends in a return or falls on."""
    refused = _REFUSE | errno.EPERM
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    instructions += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, refused)]  # the other numbering, x32
    for number in sorted(number for numbers in FORBIDDEN.values() for number in numbers):
        instructions += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refused)]
    for number in (_CLONE3, _OPENAT2):  # what calls them falls back on the older call
        instructions += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    instructions += _build_argument_rule(_OPEN, 1, _WRITING, then=refused, otherwise=_ALLOW)
    instructions += _build_argument_rule(_OPENAT, 2, _WRITING, then=refused, otherwise=_ALLOW)
    instructions += _build_argument_rule(_CLONE, 0, _THREAD, then=_ALLOW, otherwise=refused)
    for half in (0, 4):  # a pointer to new limits; reading limits is allowed
        instructions += _build_argument_rule(_PRLIMIT, 2, 0xFFFFFFFF, then=refused, otherwise=None, half=half)
    return [*instructions, (_RETURN, 0, 0, _ALLOW)]


def _build_argument_rule(
    call: int, argument: int, bits: int, *, then: int, otherwise: int | None, half: int = 0
) -> list[tuple[int, int, int, int]]:
    """A rule for one call by bits of half an argument; without `otherwise`, later rules decide."""
    last = (_LOAD, 0, 0, _NUMBER) if otherwise is None else (_RETURN, 0, 0, otherwise)
    return [
        (_EQUAL, 0, 4, call),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument + half),
        (_ANY_BIT, 0, 1, bits),
        (_RETURN, 0, 0, then),
        last,
    ]


def install_seccomp_filter() -> None:
    """Put the filter on; `OSError` where the kernel has none."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the sandbox needs Linux on x86_64")
    instructions = build_seccomp_filter()
    table = (_Instruction * len(instructions))(*(_Instruction(*instruction) for instruction in instructions))
    program = _Program(len(instructions), table)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel gives no seccomp filter: {os.strerror(number)}")


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Bound what the process may use; a limit once lowered cannot be raised from inside."""
    most = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in most.items():
        resource.setrlimit(name, (value, value))


def main() -> None:
    """Read the task, lock up, run the program, and say the word that only a program that ran to its end lets us say."""
    task: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    program, word = task["program"], task["word"]
    try:
        limit_resources(task["memory_bytes"], task["cpu_s"])
        install_seccomp_filter()
    except (OSError, ValueError) as error:
        os.write(report, f"unlocked: {error}".encode())
        return
    os.write(report, b"locked\n")
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), names)  # noqa: S102 - what this file is for
        answer = str(names.get("answer", ""))[:LONGEST].encode(errors="replace")
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit too, is its failure
        os.write(report, f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))
        os._exit(1)
    os.write(report, word.encode() + answer)
    os._exit(0)


if __name__ == "__main__":
    main()
