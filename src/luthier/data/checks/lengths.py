"""Rows that are far longer or shorter than the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    PlantedFaults,
    Summed,
    damage_every_nth,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LengthOutliers(Check):
    """Prompts that are far longer or shorter than most: pasted logs, cut rows, a wrong column.

    Far is measured on the logarithm of the number of characters by the modified z-score, 0.6745 (x - median) / MAD
    (Iglewicz and Hoaglin 1993).
    """

    kind: Literal["length_outliers"] = "length_outliers"
    measures: ClassVar[Mapping[str, str]] = {"length_outliers": gettext_noop("share of rows of a very unusual length")}
    false_alarms: ClassVar[float] = 0.005
    summed: ClassVar[Summed] = "within"

    far: float = Field(default=5.0, gt=0)
    """Modified z-score from which a length is an outlier; 3.5 is the authors' own for normal data, lengths tail off
    more slowly."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.2, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        lengths = np.array([len(text) for text in data.prompts])
        scores = robust_z(np.log(np.maximum(lengths, 1)))
        indices = np.flatnonzero(np.abs(scores) >= self.far).tolist()
        indices.sort(key=lambda index: (-abs(scores[index]), data.rows[index].id))
        number = share_with_interval(len(indices), len(lengths), self.measures["length_outliers"])
        middle = int(np.median(lengths))
        long = [index for index in indices if scores[index] > 0]
        usual = lengths[np.abs(scores) < self.far]
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(number.value, self.warning, self.serious),
                title=gettext_noop("Unusual lengths" if indices else "Lengths"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(indices), 'row')} of {len(lengths):,} "
                    f"({format_percent(number.value)}) "
                    f"{'is' if len(indices) == 1 else 'are'} far from the usual length: {len(long):,} much "
                    f"longer and {len(indices) - len(long):,} much "
                    f"shorter than {middle:,} characters."
                ),
                rows=len(indices),
                numbers={"length_outliers": number},
                hint=gettext_noop(
                    "Look at the longest and the shortest; what is not meant to be there can be left out by length."
                    if indices
                    else ""
                ),
                mend=f"ops: [{{kind: length, unit: characters, max: {max(usual, default=1)}}}]" if long else "",
            ),
            [(data.rows[index], round(float(scores[index]), 2), f"{lengths[index]:,} characters") for index in indices],
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every twentieth prompt is a pasted log."""
        return damage_every_nth(
            rows, 20, lambda row: row.saying(prompt=f"{row.prompt} " + "WARN 12:00 retry queue full\n" * 400)
        )


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): modified z-scores; where more than half of the values agree, by their mean absolute deviation."""
    import numpy as np

    if len(values) == 0:
        return values
    apart = values - np.median(values)
    spread = float(np.median(np.abs(apart))) / 0.6745
    spread = spread or float(np.abs(apart).mean()) * 1.253314
    return apart / spread if spread > 0 else np.zeros(len(values))
