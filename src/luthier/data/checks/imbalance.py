"""Classes with very few rows, or very many more than others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    RowNames,
    Summed,
    format_exclude_setting,
    severity_of_share,
)
from luthier.data.validate.context import CheckData, CheckRow
from luthier.metrics.counts import CountGroup, Counts

_REMEDY = gettext_noop(
    "Measure macro_f1 and each class, not accuracy alone; gather more rows of the small classes, make some by the step "
    "`augment` with the augmenter `balance`, or merge classes that mean the same."
)
FEWEST_OF_CLASS = 5
"""Fewer rows of a class are too few to learn it and to measure it."""
_SHOWN = 12
"""Small classes that a sentence names; the table has all."""


_SETTING = gettext_noop("The setting below leaves the rows out.")
FEW_REMEDY = gettext_noop(
    "Merge each with the class that it belongs to (`label_spelling` with `also: {small: large}`), collect rows of it, "
    "or leave its rows out (`exclude_ids`)."
)


def describe_small_classes(few: Mapping[str, int], classes: int, least: int, rows: str) -> str:
    """List the classes with too few rows, each with its number of rows, the smallest first."""
    shown = ", ".join(f"{label!r} ({count})" for label, count in list(few.items())[:_SHOWN])
    return gettext_noop(
        f"{len(few)} of {classes} classes {'has' if len(few) == 1 else 'have'} fewer than {least} {rows}: {shown}"
        + (f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else "")
    )


class ClassImbalance(Check):
    """Classes that have too few training rows to be learnt, or far fewer than the largest."""

    kind: Literal["imbalance"] = "imbalance"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {
        "imbalance": gettext_noop("rows of the largest class for each row of the smallest"),
        "classes.few": gettext_noop("classes with fewer training rows than are needed to learn them"),
    }
    false_alarms: ClassVar[float] = 0.0
    summed: ClassVar[Summed] = "pooled"

    min: int = Field(default=FEWEST_OF_CLASS, ge=1)
    """Training rows that a class needs."""
    warning: float = Field(default=10, ge=1)
    """Rows of the largest class for each row of the smallest from which it is a warning."""
    serious: float = Field(default=100, ge=1)
    """The same from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        rows = [data.rows[index] for index in data.of_split("train")] or list(data.rows)
        counts = Counter(dict.fromkeys(data.labels, 0))
        counts.update(row.label or "" for row in rows)
        ordered = sort_class_counts(counts)
        few = self._list_few(ordered)
        finding, scarce = self._tell(ordered, len(rows), few)
        yield CheckResult(finding)
        if few:
            yield self._scarce(data, few, len(counts), scarce)

    def list_count_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Training rows of each class."""
        return [CountGroup("class", names.classes)] if names.classes else []

    def count(self, data: CheckData, names: RowNames) -> Counts:
        """Training rows of each class."""
        return {"class": Counter(row.label or "" for row in data.rows if row.split == "train")}

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """The same of the rows of all sites."""
        if not names.classes:
            return
        ordered = sort_class_counts(counts["class"])
        few = self._list_few(ordered)
        finding, scarce = self._tell(ordered, sum(counts["class"].values()), few)
        yield finding
        if few:
            yield self._tell_few(few, len(ordered), scarce)

    def _list_few(self, ordered: Sequence[tuple[str, int]]) -> dict[str, int]:
        """Classes with too few rows, the smallest first."""
        return {label: count for label, count in reversed(ordered) if count < self.min}

    def _tell(
        self, ordered: Sequence[tuple[str, int]], rows: int, few: Mapping[str, int]
    ) -> tuple[Finding, FindingNumber]:
        """The finding about all classes, and the number of small ones."""
        most, fewest = ordered[0], ordered[-1]
        ratio = round(most[1] / max(1, fewest[1]), 2)
        scarce = FindingNumber(value=len(few), rows=rows, about=self.measures["classes.few"])
        severity = severity_of_share(ratio, self.warning, self.serious)
        finding = Finding(
            name=self.kind,
            severity=severity,
            title=gettext_noop("Class imbalance" if severity != "info" else "Classes"),
            sentence=gettext_noop(
                f"The largest class, {most[0]!r}, has {most[1]:,} training rows, the smallest, "
                f"{fewest[0]!r}, {fewest[1]:,}."
            ),
            numbers={
                "imbalance": FindingNumber(value=ratio, rows=rows, about=self.measures["imbalance"]),
                **({} if few else {"classes.few": scarce}),
            },
            hint=_REMEDY if severity != "info" else "",
            tables=(
                FindingTable(
                    title=gettext_noop("Training rows by class"), columns=("class", "rows"), rows=tuple(ordered)
                ),
            ),
        )
        return finding, scarce

    def _tell_few(self, few: Mapping[str, int], classes: int, scarce: FindingNumber) -> Finding:
        """The finding about small classes, without their rows."""
        return Finding(
            name=f"{self.kind}.few",
            severity="warning",
            title=gettext_noop("Classes with very few rows"),
            sentence=f"{describe_small_classes(few, classes, self.min, gettext_noop('training rows'))}.",
            numbers={"classes.few": scarce},
            hint=FEW_REMEDY,
            tables=(
                FindingTable(title=gettext_noop("Small classes"), columns=("class", "rows"), rows=tuple(few.items())),
            ),
        )

    def _scarce(self, data: CheckData, few: Mapping[str, int], classes: int, scarce: FindingNumber) -> CheckResult:
        """The classes with too few training rows, with all their rows."""
        rows = [row for row in data.rows if row.label in few]
        changes = {
            "rows": len(rows),
            "hint": f"{FEW_REMEDY} {_SETTING}",
            "mend": format_exclude_setting(rows, "rare class"),
        }
        finding = self._tell_few(few, classes, scarce).model_copy(update=changes)
        return CheckResult(finding, [(row, None, f"class {row.label!r}") for row in rows])

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Of one class, all training rows but six are gone."""
        label = min(row.label or "" for row in rows)
        check_rows = [row for row in rows if row.label == label and row.split == "train"]
        gone = {row.id for row in check_rows[6:]}
        return PlantedFaults([row for row in rows if row.id not in gone])


def sort_class_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Classes with their rows, the largest first."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
