"""Labels that are likely wrong, by confident learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    Summed,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow


class LabelErrors(Check):
    """Labels that a plain classifier, which did not see the row, is confident are another class.

    Confident learning (Northcutt, Jiang and Chuang 2021) over out-of-fold probabilities of TF-IDF with logistic
    regression. A row's score is how its label stands against the likelier class, from 0 to a half; the lowest come
    first. What the words do not show it cannot see, and rare classes look like errors: read the rows before you drop
    them.
    """

    kind: Literal["label_errors"] = "label_errors"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {"label_errors": gettext_noop("share of rows whose label is likely wrong")}
    finds: ClassVar[float] = 0.5
    false_alarms: ClassVar[float] = 0.03
    summed: ClassVar[Summed] = "within"

    min: int = Field(default=10, ge=5)
    """Classes with fewer rows are not judged: too little is known of them."""
    margin: float = Field(default=0.2, ge=0, lt=1)
    """By how much another class must be likelier than the label; with 0 every row that confident learning names."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.08, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        from luthier.data.validate.confident_learning import find_label_errors

        codes, probabilities = data.codes, data.held.probabilities
        enough = np.bincount(codes, minlength=len(data.labels))[codes] >= self.min
        own = probabilities[np.arange(len(codes)), codes]
        best = probabilities.max(axis=1)
        indices = np.flatnonzero(
            find_label_errors(codes, probabilities) & enough & (best - own >= self.margin)
        ).tolist()
        stand = own / np.maximum(own + best, 1e-12)
        indices.sort(key=lambda index: (stand[index], data.rows[index].id))
        guesses = probabilities.argmax(axis=1)
        number = share_with_interval(len(indices), len(codes), self.measures["label_errors"])
        severity = severity_of_share(number.value, self.warning, self.serious)
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity,
                title=gettext_noop("Likely label errors" if severity != "info" else "Labels"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(indices), 'row')} of {len(codes):,} ({format_percent(number.value)}) "
                    f"likely {'bears' if len(indices) == 1 else 'bear'} a wrong label, by a classifier that is right "
                    f"on {format_percent(data.held.accuracy)} of all rows."
                ),
                rows=len(indices),
                numbers={"label_errors": number},
                hint=gettext_noop(
                    "Read the rows, the most doubtful first; correct their labels at the source, or leave them out "
                    "by their ids."
                    if indices
                    else ""
                ),
                mend=format_exclude_setting([data.rows[index] for index in indices], "wrong label"),
            ),
            [
                (data.rows[index], round(float(stand[index]), 4), f"rather {data.labels[guesses[index]]!r}")
                for index in indices
            ],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every twelfth row bears the next class."""
        labels = sorted({row.label or "" for row in rows})
        check_rows, wrong = list(rows), rows[::12]
        for index, row in zip(range(0, len(rows), 12), wrong, strict=True):
            check_rows[index] = row.saying(label=labels[(labels.index(row.label or "") + 1) % len(labels)])
        return PlantedFaults(check_rows, frozenset(row.id for row in wrong))
