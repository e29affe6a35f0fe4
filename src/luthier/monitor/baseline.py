"""Baselines of signals and drift scores.

A signal compares the numbers of requests with those of the report's own rows and returns the evidence of a change and
its size. Drift scores measure the distance of a text from all known texts, its position and its words. They are fitted
on one part of the reference, so that the rest of the reference and unchanged traffic have the same distribution.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.metrics.martingale import ConformalMartingale
from luthier.monitor.signal import SignalRow, SignalValue, TrainingSample, WindowSpan
from luthier.monitor.windows import hash_to_unit_interval, hash_to_unit_intervals
from luthier.traces.record import Feedback, Trace

if TYPE_CHECKING:
    from luthier.models.embeddings.base import EmbeddingSpace, Points

FEWEST = 40
"""Minimum rows of the report."""
MOST = 5000
"""Maximum rows of the report that are kept, sampled by content."""
_FILE = "report.npy"
_KNOWN = 100_000
"""Maximum number of remembered requests."""
Numbers = tuple[float, ...]
Take = Callable[[Trace, Feedback | None], Numbers | None]


def write_reference_numbers(numbers: Sequence[Numbers], training: TrainingSample, folder: Path, called: str) -> None:
    """Write the numbers of the report's rows, in an order of their own; `DataError` for too few."""
    drawn = sorted((hash_to_unit_interval(f"{training.seed} {row}"), row) for row in numbers)[:MOST]
    if len(drawn) < FEWEST:
        what = f"the report has {len(drawn)} rows with probabilities of classes; {FEWEST} are needed"
        raise DataError(what, hint=f"leave the signal `{called}` out, or hold more rows out")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _FILE, np.array(sorted(row for _, row in drawn), dtype=np.float64), allow_pickle=False)


class ReferenceSignalState:
    """The state of a signal that compares traffic with reference values; each request counts once."""

    def __init__(self, names: Sequence[str], take: Take, folder: Path, *, points: int, seed: int) -> None:
        self._names, self._take, self._seed = names, take, seed
        self._reference: NDArray[np.float64] = np.load(folder / _FILE)
        self._exchange = ConformalMartingale(self._reference, points=points)
        self._counted: OrderedDict[str, None] = OrderedDict()

    def row(self, trace: Trace, feedback: Feedback | None) -> Numbers | None:
        """Return the numbers of a request (or of feedback on it)."""
        found = self._take(trace, feedback)
        if found is not None and trace.id not in self._counted:
            self._counted[trace.id] = None
            if len(self._counted) > _KNOWN:
                self._counted.popitem(last=False)
            self._exchange.add(found, hash_to_unit_intervals(f"{self._seed} {trace.id}", len(found)))
        return found

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        """The evidence, and how far the mean is from the report's."""
        digits = self._exchange.digits
        evidence = SignalValue(digits, digits, digits, self._exchange.points_seen)
        return dict(zip(self._names, (evidence, self._shift(rows, span)), strict=True))

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return how far each request is below the usual: less confident, or more confidently wrong."""
        return [self._usual - float(row.value[0]) for row in rows]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Both means."""
        return f"{self._middle(rows):.3f} on average, {self._usual:.3f} in the report"

    @property
    def _usual(self) -> float:
        return float(self._reference[:, 0].mean())

    @staticmethod
    def _middle(rows: Sequence[SignalRow]) -> float:
        return math.fsum(row.value[0] for row in rows) / len(rows)

    def _shift(self, rows: Sequence[SignalRow], span: WindowSpan) -> SignalValue:
        """The difference of the means, with Welch's interval; of one request, all that there is."""
        from scipy.special import stdtrit

        mine, theirs = np.array([row.value[0] for row in rows]), self._reference[:, 0]
        apart = float(mine.mean() - theirs.mean())
        if len(mine) < 2:
            return SignalValue(apart, apart, apart, span.events)
        parts = [float(entry.var(ddof=1)) / len(entry) for entry in (mine, theirs)]
        whole = sum(parts)
        squares = sum(part**2 / (len(item) - 1) for part, item in zip(parts, (mine, theirs), strict=True))
        half = float(stdtrit(whole**2 / squares, 0.975)) * math.sqrt(whole) if squares else 0.0
        return SignalValue(apart, apart - half, apart + half, span.events)


class LazyNumbers(Mapping[str, SignalValue]):
    """Evidence and effect size, for which a classifier is trained on demand."""

    def __init__(self, names: Sequence[str], evidence: SignalValue, apart: Callable[[], SignalValue]) -> None:
        self._names, self._evidence, self._apart = names, evidence, apart

    def __getitem__(self, name: str) -> SignalValue:
        if name not in self._names:
            raise KeyError(name)
        return self._evidence if name == self._names[0] else self._apart()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class PredictionConfidence(NamedTuple):
    """The confidence of a classifier in its answer: the probability of the likeliest class, and the entropy in nats."""

    confidence: float
    """The probability of the likeliest class."""
    entropy: float
    """Entropy of the class probabilities, in nats."""


def compute_confidence(probabilities: Sequence[float]) -> PredictionConfidence:
    """Compute confidence from the class probabilities, rounded against floating-point noise."""
    entropy = -math.fsum(share * math.log(share) for share in probabilities if share > 0)
    return PredictionConfidence(round(max(probabilities), 9), round(entropy, 9))


def undo_temperature(trace: Trace) -> dict[str, float] | None:
    """Return the class probabilities as in an evaluation, before the served model's calibration; None where the model
    chose no class.
    """
    if trace.scores is None or len(trace.scores) < 2 or not all(share >= 0 for share in trace.scores.values()):
        return None
    temperature = float(trace.parameters.get("calibration") or 1.0)
    powers = {label: share**temperature for label, share in trace.scores.items()}
    whole = math.fsum(powers.values())
    return {label: power / whole for label, power in powers.items()} if 0 < whole < math.inf else None


DIRECTIONS = 4
"""Number of principal directions of the reference texts."""
NAMES = ("distance", *(f"direction {number}" for number in range(1, DIRECTIONS + 1)), "length", "unknown words")
_WORD = re.compile(r"\w+")
_AT_ONCE = 512


class DriftScorer:
    """Computes drift scores of texts against embeddings and words of a reference sample."""

    def __init__(self, space: EmbeddingSpace, known: Points, words: Iterable[str]) -> None:
        self._space = space
        self._points = known
        self._middle = known.mean(axis=0)
        self._directions = self._principal()
        self._words = frozenset(words)

    def points(self, texts: Sequence[str]) -> Points:
        """Return (texts, width) embeddings."""
        return self._space.points(list(texts))

    def of(self, texts: Sequence[str], points: Points) -> NDArray[np.float64]:
        """(texts, len(NAMES)): the numbers, rounded so that a last bit decides nothing."""
        found = np.zeros((len(texts), len(NAMES)))
        for start in range(0, len(texts), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[part, 0] = 1 - (points[part] @ self._points.T).max(axis=1, initial=0.0)
            found[part, 1 : 1 + DIRECTIONS] = (points[part] - self._middle) @ self._directions.T
        found[:, -2] = [len(text) for text in texts]
        found[:, -1] = [self._unknown(text) for text in texts]
        return np.round(found, 6)

    def _principal(self) -> NDArray[np.float32]:
        """(DIRECTIONS, width): the principal axes of the known points, each with a sign of its own; zero beyond."""
        _, _, axes = np.linalg.svd(self._points - self._middle, full_matrices=False)
        axes = axes[:DIRECTIONS]
        peaks = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), peaks])[:, None]
        return np.vstack([axes, np.zeros((DIRECTIONS - len(axes), axes.shape[1]))]).astype(np.float32)

    def _unknown(self, text: str) -> float:
        words = extract_words(text)
        return sum(word not in self._words for word in words) / max(1, len(words))


def extract_words(text: str) -> list[str]:
    """The words of a text, without case."""
    return _WORD.findall(text.casefold())
