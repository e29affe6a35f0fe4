"""Programs of environments, run in the sandbox: what they say, or why they failed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from luthier.core.system.sandbox import SandboxLimits, SandboxResult, run

AT_ONCE = 2
"""Programs that run at the same time."""


def run_sandbox_programs(programs: Sequence[str], wall_s: float) -> list[SandboxResult]:
    """Run programs in the sandbox; returns how each ended and the value of its variable `answer`."""
    limits = SandboxLimits(wall_s=wall_s, cpu_s=max(1, round(wall_s)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))
