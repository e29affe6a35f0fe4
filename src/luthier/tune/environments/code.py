"""A Python interpreter that a model may use in the middle of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.core.system.sandbox import run_sandbox_programs
from luthier.tune.environment import Environment, EnvironmentConversation

_FENCE = re.compile(r"```(?:python|py)[^\S\n]*\n(.*?)```", re.DOTALL)
_PRINTED = "import io as _io, sys as _sys\n_sys.stdout = _io.StringIO()\n{program}\nanswer = _sys.stdout.getvalue()\n"


class CodeEnvironment(Environment):
    """Run the last Python program in a turn, fenced by ```python, and say what it printed, or how it failed.

    Each runs locked in (see `luthier.core.system.sandbox`): no network, no files to write, no other processes, the
    standard library only, and nothing kept from one program to the next. Linux on x86_64 only. A turn without a program
    ends the conversation.
    """

    kind: Literal["code"] = "code"

    wall_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds that a program may take."""

    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """Return the output of each program."""
        programs = [blocks[-1] if (blocks := _FENCE.findall(talk.completion)) else None for talk in talks]
        ran = iter(
            run_sandbox_programs(
                [_PRINTED.format(program=program) for program in programs if program is not None], self.wall_s
            )
        )
        return [None if program is None else _format_result(next(ran)) for program in programs]


def _format_result(ran: object) -> str:
    from luthier.core.system.sandbox import SandboxResult

    assert isinstance(ran, SandboxResult), "programs are run by the sandbox"
    return (ran.answer.strip() or "(nothing was printed)") if ran.passed else f"error: {ran.why}"
