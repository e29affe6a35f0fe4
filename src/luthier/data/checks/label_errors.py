"""Labels that are likely wrong, by confident learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.counted import counted
from luthier.data.check import Check, Found, Needs, Planted, graded, leaving_out, percent, share_of
from luthier.data.checking.material import Material, Seen
from luthier.text.findings import Finding


class LabelErrors(Check):
    """Labels that a plain classifier, which did not see the row, is confident are another class.

    Confident learning (Northcutt, Jiang and Chuang 2021) over out-of-fold probabilities of TF-IDF with logistic
    regression. A row's score is how its label stands against the likelier class, from 0 to a half; the lowest come
    first. What the words do not show it cannot see, and rare classes look like errors: read the rows before you drop
    them.
    """

    kind: Literal["label_errors"] = "label_errors"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {"label_errors": "share of rows whose label is likely wrong"}
    finds: ClassVar[float] = 0.5
    false_alarms: ClassVar[float] = 0.03

    least: int = Field(default=10, ge=5)
    """Classes with fewer rows are not judged: too little is known of them."""
    margin: float = Field(default=0.2, ge=0, lt=1)
    """By how much another class must be likelier than the label; with 0 every row that confident learning names."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.08, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: Material) -> Iterable[Found]:
        import numpy as np

        from luthier.data.checking.confident import likely_errors

        codes, chances = data.codes, data.held.chances
        enough = np.bincount(codes, minlength=len(data.labels))[codes] >= self.least
        own = chances[np.arange(len(codes)), codes]
        best = chances.max(axis=1)
        places = np.flatnonzero(likely_errors(codes, chances) & enough & (best - own >= self.margin)).tolist()
        stand = own / np.maximum(own + best, 1e-12)
        places.sort(key=lambda place: (stand[place], data.rows[place].id))
        guesses = chances.argmax(axis=1)
        number = share_of(len(places), len(codes), self.measures["label_errors"])
        severity = graded(number.value, self.warning, self.serious)
        said = f"{counted(len(places), 'row')} of {len(codes):,} ({percent(number.value)}) likely "
        said += "bears a wrong label" if len(places) == 1 else "bear a wrong label"
        yield Found(
            Finding(
                name=self.kind,
                severity=severity,
                title="Likely label errors" if severity != "info" else "Labels",
                sentence=f"{said}, by a classifier that is right on {percent(data.held.accuracy)} of all rows.",
                rows=len(places),
                numbers={"label_errors": number},
                remedy="Read the rows, the most doubtful first; correct their labels at the source, or leave them out "
                "by their ids." if places else "",
                mend=leaving_out([data.rows[place] for place in places], "wrong label"),
            ),
            [
                (data.rows[place], round(float(stand[place]), 4), f"rather {data.labels[guesses[place]]!r}")
                for place in places
            ],
        )  # fmt: skip

    def plant(self, rows: Sequence[Seen]) -> Planted:
        """Every twelfth row bears the next class."""
        labels = sorted({row.label or "" for row in rows})
        made, wrong = list(rows), rows[::12]
        for place, row in zip(range(0, len(rows), 12), wrong, strict=True):
            made[place] = row.saying(label=labels[(labels.index(row.label or "") + 1) % len(labels)])
        return Planted(made, frozenset(row.id for row in wrong))
