"""Numbers of requests held against the same numbers of the report's own rows: evidence of a change, and its size."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.core.errors import DataError
from luthier.metrics.exchange import Exchange
from luthier.monitor.signal import Reading, Row, Span, Training
from luthier.monitor.windows import lot_of, lots_of
from luthier.traffic.record import Feedback, Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 40
"""With fewer rows of the report nothing can be said."""
MOST = 5000
"""At most so many rows of the report are kept, drawn by what they say."""
_FILE = "report.npy"
_KNOWN = 100_000
"""So many requests are known as counted already."""
Numbers = tuple[float, ...]
Take = Callable[[Trace, Feedback | None], Numbers | None]


def keep(numbers: Sequence[Numbers], training: Training, folder: Path, called: str) -> None:
    """Write the numbers of the report's rows, in an order of their own; `DataError` for too few."""
    drawn = sorted((lot_of(f"{training.seed} {row}"), row) for row in numbers)[:MOST]
    if len(drawn) < FEWEST:
        what = f"the report has {len(drawn)} rows with probabilities of classes; {FEWEST} are needed"
        raise DataError(what, remedy=f"leave the signal `{called}` out, or hold more rows out")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _FILE, np.array(sorted(row for _, row in drawn), dtype=np.float64), allow_pickle=False)


class Held:
    """An open signal: each request counts once, by the first of its numbers for the size of the change, by the loudest
    of them for the evidence."""

    def __init__(self, names: Sequence[str], take: Take, folder: Path, *, points: int, seed: int) -> None:
        self._names, self._take, self._seed = names, take, seed
        self._reference: NDArray[np.float64] = np.load(folder / _FILE)
        self._exchange = Exchange(self._reference, points=points)
        self._counted: OrderedDict[str, None] = OrderedDict()

    def row(self, trace: Trace, feedback: Feedback | None) -> Numbers | None:
        """The numbers of a request (or of what was said of it)."""
        found = self._take(trace, feedback)
        if found is not None and trace.id not in self._counted:
            self._counted[trace.id] = None
            if len(self._counted) > _KNOWN:
                self._counted.popitem(last=False)
            self._exchange.add(found, lots_of(f"{self._seed} {trace.id}", len(found)))
        return found

    def measure(self, rows: Sequence[Row], span: Span) -> Mapping[str, Reading]:
        """The evidence, and how far the mean is from the report's."""
        digits = self._exchange.digits
        evidence = Reading(digits, digits, digits, self._exchange.seen)
        return dict(zip(self._names, (evidence, self._shift(rows, span)), strict=True))

    def each(self, rows: Sequence[Row]) -> Sequence[float] | None:
        """How far each request is below what is usual: less sure, or more wrongly sure."""
        return [self._usual - float(row.value[0]) for row in rows]

    def story(self, rows: Sequence[Row]) -> str:
        """Both means."""
        return f"{self._middle(rows):.3f} on average, {self._usual:.3f} in the report"

    @property
    def _usual(self) -> float:
        return float(self._reference[:, 0].mean())

    @staticmethod
    def _middle(rows: Sequence[Row]) -> float:
        return math.fsum(row.value[0] for row in rows) / len(rows)

    def _shift(self, rows: Sequence[Row], span: Span) -> Reading:
        """The difference of the means, with Welch's interval; of one request, all that there is."""
        from scipy.special import stdtrit

        mine, theirs = np.array([row.value[0] for row in rows]), self._reference[:, 0]
        apart = float(mine.mean() - theirs.mean())
        if len(mine) < 2:
            return Reading(apart, apart, apart, span.events)
        parts = [float(one.var(ddof=1)) / len(one) for one in (mine, theirs)]
        whole = sum(parts)
        squares = sum(part**2 / (len(one) - 1) for part, one in zip(parts, (mine, theirs), strict=True))
        half = float(stdtrit(whole**2 / squares, 0.975)) * math.sqrt(whole) if squares else 0.0
        return Reading(apart, apart - half, apart + half, span.events)


class Sure(NamedTuple):
    """How sure a model was of its answer."""

    confidence: float
    """The probability of the likeliest class."""
    entropy: float
    """How evenly the classes share the probability, in nats."""


def sure(probabilities: Sequence[float]) -> Sure:
    """Of the probabilities of all classes, rounded so that a last bit decides nothing."""
    entropy = -math.fsum(share * math.log(share) for share in probabilities if share > 0)
    return Sure(round(max(probabilities), 9), round(entropy, 9))


def stated(trace: Trace) -> dict[str, float] | None:
    """The classes' probabilities as an evaluation has them: before the served model's temperature made them mean what
    they say. None where the model chose no class."""
    if trace.scores is None or len(trace.scores) < 2 or not all(share >= 0 for share in trace.scores.values()):
        return None
    temperature = float(trace.parameters.get("calibration") or 1.0)
    powers = {label: share**temperature for label, share in trace.scores.items()}
    whole = math.fsum(powers.values())
    return {label: power / whole for label, power in powers.items()} if 0 < whole < math.inf else None
