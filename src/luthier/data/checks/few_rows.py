"""Too few rows to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import FEWEST_ROWS, Finding, FindingNumber, Severity
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, PlantedFaults, RowNames, Summed
from luthier.data.validate.context import CheckData, CheckRow
from luthier.metrics.counts import CountGroup, Counts

FEW_ROWS = 50
"""From 50 to 100 examples on, OpenAI's guide to supervised fine-tuning sees clear improvements."""
REMEDY = gettext_noop(
    "Collect more rows, label those that have no label yet (step `unlabeled`), or make some of the rows that there are "
    "(step `augment`); until then, give the examples to the model in its prompt."
)


class FewRows(Check):
    """Fewer training rows than a model needs to learn from."""

    kind: Literal["few_rows"] = "few_rows"
    measures: ClassVar[Mapping[str, str]] = {"rows.train": gettext_noop("rows to train on")}
    false_alarms: ClassVar[float] = 0.0
    summed: ClassVar[Summed] = "pooled"

    warning: int = Field(default=FEW_ROWS, ge=1)
    """With fewer training rows it is a warning."""
    serious: int = Field(default=FEWEST_ROWS, ge=1)
    """With fewer training rows it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        training = len(data.of_split("train"))
        measured = len(data.of_split("test", "validation"))
        is_part = len(data.rows) < data.available  # then the rows that are looked at are not all that there are
        severity = severity_of_row_count(data.available if is_part else training, self.warning, self.serious)
        if not training and measured:  # rows that are only measured on
            severity = "info"
        yield CheckResult(self._tell(training, measured, len(data.rows), severity))

    def list_count_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Rows of each split."""
        return [CountGroup("split", ("train", "validation", "test"))]

    def count(self, data: CheckData, names: RowNames) -> Counts:
        """Rows of each split."""
        return {"split": Counter(row.split for row in data.rows)}

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """The same of the rows of all sites."""
        training, measured = counts["split"]["train"], counts["split"]["validation"] + counts["split"]["test"]
        severity = severity_of_row_count(training, self.warning, self.serious)
        yield self._tell(training, measured, training + measured, "info" if not training and measured else severity)

    def _tell(self, training: int, measured: int, rows: int, severity: Severity) -> Finding:
        return Finding(
            name=self.kind,
            severity=severity,
            title=gettext_noop("Too few rows" if severity != "info" else "Training rows"),
            sentence=gettext_noop(
                f"{format_counted_noun(training, 'training row')}"
                + (f", {measured:,} held out" if measured else "")
                + (
                    f": too few to train on; at least {self.serious:,} are needed and {self.warning:,} recommended."
                    if severity != "info"
                    else "."
                )
            ),
            numbers={"rows.train": FindingNumber(value=training, rows=rows, about=self.measures["rows.train"])},
            hint=REMEDY if severity != "info" else "",
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """All training rows but eight are gone."""
        gone = {row.id for row in [row for row in rows if row.split == "train"][8:]}
        return PlantedFaults([row for row in rows if row.id not in gone])


def severity_of_row_count(rows: int, warning: int = FEW_ROWS, serious: int = FEWEST_ROWS) -> Severity:
    """Return the severity of having so few training rows."""
    return "serious" if rows < serious else "warning" if rows < warning else "info"
