"""Signal of drift of media: whether images and recordings still resemble the training data."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.chat.messages import Media
from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.monitor.signal import (
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    TrainingSample,
    WindowSpan,
)
from luthier.traces.record import Feedback, Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST = 40
"""Minimum number of reference images."""
MEASURES: Mapping[str, tuple[str, ...]] = {
    "image": ("look", "bytes", "pixels", "shape", "brightness"),
    "audio": ("sound", "bytes", "seconds", "rate", "loudness"),
}
"""Numbers of a medium of each kind; the first is the Hamming distance of its fingerprint to the nearest known one."""
_APART_ROWS = 500
_KNOWN = 100_000
"""Maximum number of remembered media."""
_BITS = 128


class MediaDrift(Signal):
    """How far the pictures (or sounds) of requests are from those of the training data, and how strong the evidence is.

    Five numbers of each picture are looked at: how unlike it looks to all known ones (bits of the perceptual
    fingerprint that the nearest one lacks), bytes, pixels, shape and brightness; of a sound: how unlike it sounds,
    bytes, seconds, samples in a second and loudness. `media_drift.evidence` is a power of ten as that of `drift`: while
    pictures come as the training data's were drawn, it passes 2 within a round of `media` with a chance of at most 1 in
    100, however often one looks. A picture that is asked about again counts once. `media_drift.apart` is the size of
    the change: how often a plain classifier tells a picture of the window from one of the training data by these
    numbers, 0.5 where it cannot, 1 where it always can. Traces keep all that is needed; no bytes are read.
    """

    kind: Literal["media_drift"] = "media_drift"
    usual: ClassVar[Window] = Window(events=300)
    learns: ClassVar[bool] = True

    medium: Literal["image", "audio"] = "image"
    """What is looked at: pictures or sounds."""
    media: int = Field(default=10_000, ge=100, le=1_000_000)
    """The length of a round in different pictures or sounds, after which the evidence begins anew."""
    rows: int = Field(default=3000, ge=2 * FEWEST, le=20_000)
    """How many pictures or sounds of the training data are kept as reference: a third is known, the rest is ranked."""

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.evidence", f"{self.called}.apart"]

    def enough(self, number: str, spec: Window) -> int:
        """Evidence counts from the first picture on."""
        return 1 if number.endswith(".evidence") else super().enough(number, spec)

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """Fingerprints of some media of the training rows, and the numbers of the others."""
        import numpy as np

        from luthier.core.errors import DataError
        from luthier.monitor.windows import hash_to_unit_interval

        mine = {entry.digest: entry for entry in training.media if entry.kind == self.medium and entry.fingerprint}
        drawn = sorted((hash_to_unit_interval(f"{training.seed} {digest}"), digest) for digest in mine)[: self.rows]
        if len(drawn) < FEWEST:
            words = {"image": "pictures", "audio": "sounds"}[self.medium]
            what = f"{len(drawn)} {words} of the training data are too few to compare traffic with; {FEWEST} are needed"
            raise DataError(what, hint=f"leave the signal `{self.called}` out, or train on more rows")
        chosen = [mine[digest] for _, digest in drawn]
        known, rest = chosen[: len(chosen) // 3], chosen[len(chosen) // 3 :]
        folder.mkdir(parents=True, exist_ok=True)
        known_bits = _bits(known)
        np.save(folder / "known.npy", known_bits, allow_pickle=False)
        np.save(folder / "rest.npy", measure_media(rest, known_bits), allow_pickle=False)

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The evidence at its beginning."""
        return _Open(self, folder, context)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        media = [medium for turn in trace.messages for medium in turn.media if medium.kind == self.medium]
        return media[-1] if media and media[-1].fingerprint else None

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("drift of media is measured through `open`")


def measure_media(media: Sequence[Media], known: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(media, 5): the numbers of `MEASURES` of media of one kind; `known` are fingerprints, (n, 128) bits.

    A level that an earlier version did not write counts as missing: it is NaN.
    """
    import numpy as np

    found = np.empty((len(media), 5))
    for at, (medium, bits) in enumerate(zip(media, _bits(media), strict=True)):
        distance = int((known != bits).sum(axis=1).min()) / _BITS
        if medium.kind == "image":
            width, height = medium.width or 1, medium.height or 1
            shape = math.log(width * height), math.log(width / height)
        else:
            shape = math.log(max(medium.seconds or 0.0, 1e-3)), math.log(medium.rate or 1)
        level = math.nan if medium.level is None else medium.level
        found[at] = distance, math.log(max(1, medium.size)), *shape, level
    return np.round(found, 9)


def _bits(media: Sequence[Media]) -> NDArray[np.uint8]:
    """(media, 128): the bits of their fingerprints."""
    import numpy as np

    raw = b"".join(bytes.fromhex(medium.fingerprint or "") for medium in media)
    return np.unpackbits(np.frombuffer(raw, np.uint8)).reshape(-1, _BITS)


class _Measured(NamedTuple):
    """A picture of a request, and what is measured of it."""

    digest: str
    values: tuple[float, ...]


class _Open:
    """The evidence of the round so far, and the reference."""

    def __init__(self, signal: MediaDrift, folder: Path, context: RunContext) -> None:
        import numpy as np

        from luthier.metrics.martingale import ConformalMartingale

        self._signal, self._seed = signal, context.seed
        self._known: NDArray[np.uint8] = np.load(folder / "known.npy")
        rest: NDArray[np.float64] = np.load(folder / "rest.npy")
        self._used = [at for at in range(rest.shape[1]) if np.isfinite(rest[:, at]).all()]
        self._rest = rest[:, self._used]
        self._usual: NDArray[np.float64] = np.median(self._rest, axis=0)
        self._spread: NDArray[np.float64] = np.maximum(self._rest.std(axis=0), 1e-6)
        self.evidence = ConformalMartingale(self._rest, points=signal.media)
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._apart: tuple[tuple[int, int], tuple[float, float, float]] | None = None

    def row(self, trace: Trace, feedback: Feedback | None) -> _Measured | None:
        from luthier.monitor.windows import hash_to_unit_intervals

        medium = self._signal.row(trace, feedback)
        if medium is None:
            return None
        values = measure_media([medium], self._known)[0, self._used]
        scores = [self._usual[at] if math.isnan(value) else value for at, value in enumerate(values.tolist())]
        if medium.digest not in self._counted:
            self._counted[medium.digest] = None
            if len(self._counted) > _KNOWN:
                self._counted.popitem(last=False)
            self.evidence.add(scores, hash_to_unit_intervals(f"{self._seed} {medium.digest}", len(scores)))
        return _Measured(medium.digest, tuple(scores))

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        from luthier.monitor.baseline import LazyNumbers

        digits = self.evidence.digits
        evidence = SignalValue(digits, digits, digits, self.evidence.points_seen)
        names = self._signal.numbers()
        return LazyNumbers(names, evidence, lambda: SignalValue(*self._tell_apart(rows), span.events))

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return each image's distance to all known ones, and of its other numbers from the usual."""
        import numpy as np

        values = np.array([row.value.values for row in rows]).reshape(len(rows), -1)
        return [float(value) for value in (np.abs(values - self._usual) / self._spread).max(axis=1)]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Name the number with the largest effect."""
        loud = MEASURES[self._signal.medium][self._used[int(self.evidence.each.argmax())]]
        area, low, high = self._tell_apart(rows)
        words = {"image": "pictures", "audio": "sounds"}[self._signal.medium]
        return (
            f"the loudest number is: {loud}; a plain classifier tells these {words} from those of the training data "
            f"with an area under the curve of {area:.2f} ({low:.2f} to {high:.2f}; 0.5 is chance)"
        )

    def _tell_apart(self, rows: Sequence[SignalRow]) -> tuple[float, float, float]:
        """Return a classifier's AUC of the rows against the reference; retrained when a third of the rows are new."""
        import numpy as np

        from luthier.models.text_classifier import measure_separability

        rows = rows[-_APART_ROWS:]
        step = max(1, len(rows) // 3)
        version = (len(rows) // step, self.evidence.points_seen // step)
        if self._apart is None or self._apart[0] != version:
            theirs = self._rest[:_APART_ROWS]
            mine = np.array([row.value.values for row in rows])
            table = np.clip((np.vstack([theirs, mine]) - self._usual) / self._spread, -10, 10)
            table = np.hstack([table, np.abs(table)])  # what is more spread out is told apart, too
            self._apart = version, measure_separability(table, len(theirs), len(mine), self._seed)
        return self._apart[1]
