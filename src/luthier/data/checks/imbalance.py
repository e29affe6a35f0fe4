"""Classes with very few rows, or very many more than others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.data.check import Check, Found, Needs, Planted, graded
from luthier.data.checking.material import Material, Seen
from luthier.text.findings import Finding, Number, Table

_REMEDY = (
    "Measure macro_f1 and each class, not accuracy alone; gather more rows of the small classes, make some by the step "
    "`augment` with the augmenter `balance`, or merge classes that mean the same."
)


class Imbalance(Check):
    """Classes that have too few training rows to be learnt, or far fewer than the largest."""

    kind: Literal["imbalance"] = "imbalance"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {
        "imbalance": "rows of the largest class for each row of the smallest",
        "classes.few": "classes with fewer training rows than are needed to learn them",
    }
    false_alarms: ClassVar[float] = 0.0

    least: int = Field(default=5, ge=1)
    """Training rows that a class needs."""
    warning: float = Field(default=10, ge=1)
    """Rows of the largest class for each row of the smallest from which it is a warning."""
    serious: float = Field(default=100, ge=1)
    """The same from which it is serious."""

    def look(self, data: Material) -> Iterable[Found]:
        rows = [data.rows[place] for place in data.of_split("train")] or list(data.rows)
        counts = Counter(dict.fromkeys(data.labels, 0))
        counts.update(row.label or "" for row in rows)
        ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        most, fewest = ordered[0], ordered[-1]
        ratio = round(most[1] / max(1, fewest[1]), 2)
        few = {label for label, count in counts.items() if count < self.least}
        severity = graded(ratio, self.warning, self.serious)
        if few and severity == "info":
            severity = "warning"
        said = (
            f"The largest class, {most[0]!r}, has {most[1]:,} training rows, the smallest, {fewest[0]!r}, {fewest[1]:,}"
        )
        have = "has" if len(few) == 1 else "have"
        scarce = f"; {len(few)} of {len(counts)} classes {have} fewer than {self.least}" if few else ""
        yield Found(
            Finding(
                name=self.kind,
                severity=severity,
                title="Class imbalance" if severity != "info" else "Classes",
                sentence=f"{said}{scarce}.",
                rows=sum(row.label in few for row in rows),
                numbers={
                    "imbalance": Number(value=ratio, rows=len(rows), about=self.measures["imbalance"]),
                    "classes.few": Number(value=len(few), rows=len(rows), about=self.measures["classes.few"]),
                },
                remedy=_REMEDY if severity != "info" else "",
                mend="ops: [label_spelling]" if few else "",
                tables=(Table(title="Training rows by class", columns=("class", "rows"), rows=tuple(ordered)),),
            ),
            [(row, None, f"class {row.label!r}") for row in rows if row.label in few],
        )  # fmt: skip

    def plant(self, rows: Sequence[Seen]) -> Planted:
        """Of one class, all training rows but six are gone."""
        label = min(row.label or "" for row in rows)
        mine = [row for row in rows if row.label == label and row.split == "train"]
        gone = {row.id for row in mine[6:]}
        return Planted([row for row in rows if row.id not in gone])
