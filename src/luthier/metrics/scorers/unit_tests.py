"""Programs that are run against their tests, each in a locked process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.core.system.sandbox import SandboxLimits, run

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


class UnitTestScorer(Scorer):
    """Run each answer, a Python program, followed by its reference, the tests: it passes when nothing is raised.

    Programs run without network, files to write or other processes, within limits; Linux on x86_64 only, and no defence
    against a program that means harm and knows a hole in the kernel: see `luthier.core.system.sandbox`.
    """

    kind: Literal["unit_tests"] = "unit_tests"
    writes: ClassVar[tuple[str, ...]] = ("passed", "programs")
    wall_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that a program with its tests may take."""
    memory_mb: int = Field(default=512, ge=64)
    """Memory that it may use."""
    max_concurrency: int = Field(default=2, ge=1, le=64)
    """Programs that run at the same time."""
    fenced: bool = True
    """Whether the program is what stands in the answer's first fence (```), when there is one."""

    def columns(self, rows: Sequence[ScorerRow], context: RunContext) -> dict[str, Column]:
        """How many of a row's programs pass (its prediction and its samples), and how many there are."""
        programs = [
            f"{self.program(text)}\n{reference}\n"
            for row in rows
            for text in (row.prediction, *row.samples)
            for reference in row.references[:1]
        ]
        with ThreadPoolExecutor(self.max_concurrency) as pool:
            results = iter(list(pool.map(lambda program: self._passes(program, context.cache_dir), programs)))
        counts = [1 + len(row.samples) for row in rows]
        passed: Column = [float(sum(next(results) for _ in range(count))) for count in counts]
        return {"passed": passed, "programs": [float(count) for count in counts]}

    def program(self, text: str) -> str:
        """The program of an answer."""
        match = _FENCE.search(text) if self.fenced else None
        return match[1] if match else text

    def _passes(self, program: str, kept: Path) -> bool:
        limits = SandboxLimits(wall_s=self.wall_s, cpu_s=max(1, round(self.wall_s)), memory_mb=self.memory_mb)
        path = kept / f"ran-{digest_of([program, vars(limits)])}.json"
        if not path.is_file():
            write_atomically(path, json.dumps(vars(run(program, limits))).encode())
        return bool(json.loads(path.read_text(encoding="utf-8"))["passed"])
