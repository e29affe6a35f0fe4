"""The gap between groups of the user's own rows: how much worse the model is for those whom it serves worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.eval.probe import Bench, Measure, Probe
from luthier.eval.rows import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GroupGap(Probe):
    """Accuracy of the best-served group minus that of the worst-served: `bias.gap`."""

    kind: Literal["group_gap"] = "group_gap"
    measures: ClassVar[tuple[str, ...]] = ("bias.gap",)
    column: str
    """The column that tells the groups apart: one that was not mapped to text or label, such as `channel`."""
    least: int = Field(default=20, ge=2)
    """Groups with fewer rows are left out: their accuracy says too little."""

    def measure(self, bench: Bench) -> list[Measure]:
        import numpy as np

        from luthier.metrics.resample import Job, intervals

        groups = self._groups(bench.task)
        found = []
        for model, answers in bench.answers.items():
            right = [said in real for said, real in zip(answers.predictions, answers.references, strict=True)]
            block = np.zeros((len(answers), 2 * len(groups)))
            for place, rows in enumerate(groups.values()):
                block[rows, 2 * place] = np.array(right)[rows]
                block[rows, 2 * place + 1] = 1
            gap = intervals([Job(blocks=(block,), value=lambda sums: _gap(sums[0]), span=(0, 1))], seed=bench.seed)[0]
            detail = {name: float(np.mean(np.array(right)[rows])) for name, rows in groups.items()}
            found.append(
                Measure(
                    name="bias.gap",
                    model=model,
                    value=gap.value,
                    low=max(0.0, gap.low),
                    high=min(1.0, gap.high),
                    rows=int(block[:, 1::2].sum()),
                    signature=f"bias.gap|v:1|column:{self.column}|least:{self.least}|interval:bca95",
                    detail=detail,
                )
            )
        return found

    def _groups(self, task: Task) -> dict[str, list[int]]:
        """Rows of each group that is large enough."""
        where = Where(field="probes")
        if task.kind != "label":
            raise RecipeError("group_gap compares accuracy, which a task of texts does not have", where=where)
        groups: dict[str, list[int]] = {}
        for row, example in enumerate(task.examples):
            if example.meta.get(self.column) is not None:
                groups.setdefault(str(example.meta[self.column]), []).append(row)
        if not groups:
            known = {column for example in task.examples for column in example.meta}
            raise RecipeError(f"no row has {self.column!r}", where=where, remedy=did_you_mean(self.column, known))
        large = {name: rows for name, rows in sorted(groups.items()) if len(rows) >= self.least}
        if len(large) < 2:
            what = f"column {self.column!r} has {len(large)} group(s) of at least {self.least} rows; two are needed"
            raise RecipeError(what, where=where, remedy="evaluate more rows, or set a smaller `least`")
        return large


def _gap(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best share minus worst share over the groups with rows: (b, 2 groups) to (b,)."""
    import numpy as np

    right, rows = sums[:, 0::2], sums[:, 1::2]
    share = np.divide(right, rows, out=np.zeros(np.shape(right)), where=rows > 0)
    best: NDArray[np.float64] = np.where(rows > 0, share, 0.0).max(axis=1)
    worst: NDArray[np.float64] = np.where(rows > 0, share, 1.0).min(axis=1)
    return np.maximum(best - worst, 0.0)
