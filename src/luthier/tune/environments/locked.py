"""Programs of environments, run in the sandbox: what they say, or why they failed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from luthier.core.system.sandbox import SandboxLimits, SandboxResult, run

AT_ONCE = 2
"""Programs that run at the same time."""


def run_programs_locked(programs: Sequence[str], wall_s: float) -> list[SandboxResult]:
    """How each program ended, and what its variable `answer` was."""
    limits = SandboxLimits(wall_s=wall_s, cpu_s=max(1, round(wall_s)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))
