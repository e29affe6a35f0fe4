"""pass@k: how often one of k programs passes its tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.kinds.scored import ScorerMetric
from luthier.metrics.metric import EvalPredictions

if TYPE_CHECKING:
    from luthier.metrics.intervals import Block


class PassAtK(ScorerMetric):
    """Mean chance that at least one of k programs passes: 1 - C(n - c, k) / C(n, k) of n programs of which c passed.

    Chen et al. 2021, unbiased. The scorer `unit_tests` runs the programs.
    """

    kind: Literal["pass_at_k"] = "pass_at_k"
    scored: ClassVar[tuple[str, ...]] = ("passed", "programs")
    k: int = Field(default=1, ge=1)
    """How many programs are drawn; every row needs at least so many."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        block = np.zeros((len(answers), 2))
        columns = (answers.columns[name] for name in self.scored)
        for row, (passed, programs) in enumerate(zip(*columns, strict=True)):
            if passed is not None and programs is not None:
                block[row] = self._chance(row, int(passed), int(programs)), 1
        return block

    def _chance(self, row: int, passed: int, programs: int) -> float:
        if programs < self.k:
            what = f"row {row + 1}: pass@{self.k} needs {self.k} programs, and {programs} came"
            raise DataError(what, where=SourceLocation(field="samples"), hint="give more samples, or a smaller k")
        return 1 - math.comb(programs - passed, self.k) / math.comb(programs, self.k)
