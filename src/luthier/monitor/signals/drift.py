"""Signal of drift: whether requests or responses still resemble the training data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.expressions import Window
from luthier.core.files import write_atomically
from luthier.metrics.counts import CountGroup, Counts
from luthier.models.embeddings.base import Embedder
from luthier.monitor.signal import (
    Signal,
    SignalRow,
    SignalState,
    SignalValue,
    TrainingSample,
    WindowSpan,
    answer_text,
    question_text,
)
from luthier.traces.record import Feedback, Trace

_SPACE, _WORDS = "space", "words.json"
FEWEST = 40
"""Minimum number of reference texts."""
_APART_ROWS = 500
"""Rows of either side for a classifier."""
_PENDING = 256
_TENTHS = tuple(str(number) for number in range(1, 11))


class Drift(Signal):
    """How far traffic is from the training data, and how strong the evidence is; false alarms hold at any time.

    `drift.evidence` is a power of ten: while requests come as the training data were drawn, it passes 2 (a hundred to
    one) within a round of `requests` with a chance of at most 1 in 100, 3 in 1000, however often one looks. It is a
    conformal test martingale on numbers of each text (how far it is from all known ones, where it lies, its length, its
    unknown words), restarted at every request (Vovk et al. 2021; `luthier.metrics.martingale`). `drift.apart` is the
    size of the change: how often a plain classifier tells a request of the window from a row of the training data
    (Lopez-Paz and Oquab 2017), 0.5 where it cannot, 1 where it always can.

    The promise is about requests that are drawn one by one. What the data room left out (duplicates, say) is a change
    too, and so is a burst of requests by one program; `first_turns` leaves out those that continue a conversation.
    """

    kind: Literal["drift"] = "drift"
    usual: ClassVar[Window] = Window(events=300)
    learns: ClassVar[bool] = True

    text: Literal["prompt", "answer"] = "prompt"
    """What is looked at: what users ask (the last turn), or what the model answers."""
    embedder: Embedder = Field(default_factory=lambda: Embedder.parse("lsa"))
    """Makes points of texts; `lsa` sees topics by their words and needs no weights, `encoder` sees meaning."""
    requests: int = Field(default=10_000, ge=100, le=1_000_000)
    """The length of a round, after which the evidence begins anew."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The part of the requests that is looked at, where there are too many; their ids decide which."""
    first_turns: bool = True
    """Whether only the first request of a conversation counts."""
    rows: int = Field(default=3000, ge=2 * FEWEST, le=20_000)
    """How many texts of the training data are kept as reference: a third is learnt from, the rest ranked."""

    @property
    def called(self) -> str:
        return self.name or ("drift" if self.text == "prompt" else "answer_drift")

    def numbers(self) -> Sequence[str]:
        return [f"{self.called}.evidence", f"{self.called}.apart"]

    def enough(self, number: str, spec: Window) -> int:
        """Evidence counts from the first request on."""
        return 1 if number.endswith(".evidence") else super().enough(number, spec)

    def learn(self, training: TrainingSample, folder: Path) -> None:
        """From a draw of the training texts, by content: a space, and the numbers and points of the rest."""
        import numpy as np

        from luthier.monitor.baseline import DriftScorer, extract_words

        known, rest = self._drawn(training)
        space = self.embedder.space(known, recipe_dir=training.recipe_dir, seed=training.seed)
        self.embedder.keep(space, folder / _SPACE)
        words = sorted({word for text in known for word in extract_words(text)})
        points = space.points(known)
        numbers = DriftScorer(space, points, words)
        placed = numbers.points(rest)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("known", points), ("rest", numbers.of(rest, placed)), ("points", placed[:_APART_ROWS])):
            np.save(folder / f"{name}.npy", table, allow_pickle=False)
        write_atomically(folder / _WORDS, json.dumps(words, ensure_ascii=False).encode())

    def _drawn(self, training: TrainingSample) -> tuple[list[str], list[str]]:
        """The texts to learn from, and those to rank traffic among."""
        from luthier.core.errors import DataError
        from luthier.monitor.windows import hash_to_unit_interval

        texts = training.prompts if self.text == "prompt" else training.answers
        drawn = sorted((hash_to_unit_interval(f"{training.seed} {text}"), text) for text in texts if text.strip())[
            : self.rows
        ]
        if len(drawn) < FEWEST:
            what = f"{len(drawn)} texts of the training data are too few to hold traffic against; {FEWEST} are needed"
            raise DataError(what, hint="leave the signal `drift` out, or train on more rows")
        chosen = [text for _, text in drawn]
        return chosen[: len(chosen) // 3], chosen[len(chosen) // 3 :]

    def open(self, folder: Path, context: RunContext) -> SignalState:
        """The evidence at its beginning."""
        return _Open(self, folder, context)

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        from luthier.monitor.windows import hash_to_unit_interval

        if self.share < 1 and hash_to_unit_interval(f"drift {trace.id}") >= self.share:
            return None
        if self.first_turns and any(turn.role == "assistant" for turn in trace.messages):
            return None
        text = question_text(trace) if self.text == "prompt" else answer_text(trace)
        return _Text(text, trace.id) if text and text.strip() else None

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        raise NotImplementedError("drift is measured through `open`")

    def list_count_groups(self) -> Sequence[CountGroup]:
        """Count requests by the decile of each number among those of training rows."""
        from luthier.monitor.baseline import NAMES

        return [CountGroup(f"{self.called}/{name}", _TENTHS, ordered=True) for name in NAMES]

    def list_summed_numbers(self) -> Sequence[str]:
        """Evidence grows by single requests in their order, which counts do not tell."""
        return [f"{self.called}.apart"]

    def count(self, rows: Sequence[SignalRow], folder: Path, context: RunContext) -> Counts:
        """Count some rows against this site's training rows; equal values share their deciles."""
        import numpy as np

        from luthier.monitor.baseline import NAMES, DriftScorer

        if not rows:
            return {}
        known, rest = (np.load(folder / f"{name}.npy") for name in ("known", "rest"))
        space = self.embedder.kept(folder / _SPACE, recipe_dir=context.recipe_dir)
        scorer = DriftScorer(space, known, json.loads((folder / _WORDS).read_bytes()))
        texts = [row.value.text for row in rows]
        numbers, found = scorer.of(texts, scorer.points(texts)), {}
        for column, name in enumerate(NAMES):
            ordered = np.sort(rest[:, column])
            ranks = sum(np.searchsorted(ordered, numbers[:, column], side) for side in ("left", "right"))
            tenths = np.minimum(9, (10 * ranks) // (2 * len(ordered))).tolist()
            found[f"{self.called}/{name}"] = Counter(_TENTHS[tenth] for tenth in tenths)
        return found

    def measure_counts(self, counts: Counts, seconds: float) -> Mapping[str, SignalValue | None]:
        """Return the largest AUC with which a number separates requests from training rows; its interval is corrected
        for the choice among numbers.
        """
        from luthier.monitor.counts import measure_tenths

        groups = [counts[group.name] for group in self.list_count_groups()]
        return {f"{self.called}.apart": measure_tenths(groups)}


class _Text(NamedTuple):
    text: str
    trace: str


class _Open:
    """The evidence of the round so far, and the reference."""

    def __init__(self, signal: Drift, folder: Path, context: RunContext) -> None:
        import numpy as np

        from luthier.metrics.martingale import ConformalMartingale
        from luthier.monitor.baseline import DriftScorer

        self._signal, self._seed = signal, context.seed
        known, rest, self._points = (np.load(folder / f"{name}.npy") for name in ("known", "rest", "points"))
        space = signal.embedder.kept(folder / _SPACE, recipe_dir=context.recipe_dir)
        self._numbers = DriftScorer(space, known, json.loads((folder / _WORDS).read_bytes()))
        self.evidence = ConformalMartingale(rest, points=signal.requests)
        self._pending: list[_Text] = []
        self._apart: tuple[tuple[int, int], tuple[float, float, float]] | None = None

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        found = self._signal.row(trace, feedback)
        if found is not None:
            self._pending.append(found)
            if len(self._pending) >= _PENDING:
                self._take()
        return found

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        from luthier.monitor.baseline import LazyNumbers

        self._take()
        digits = self.evidence.digits
        evidence = SignalValue(digits, digits, digits, self.evidence.points_seen)
        return LazyNumbers(self._signal.numbers(), evidence, lambda: SignalValue(*self._told_apart(rows), span.events))

    def each(self, rows: Sequence[SignalRow]) -> Sequence[float] | None:
        """Return each text's distance to all known ones, and its number of unknown words."""
        texts = [row.value.text for row in rows]
        numbers = self._numbers.of(texts, self._numbers.points(texts))
        return [float(value) for value in numbers[:, 0] + numbers[:, -1]]

    def explain(self, rows: Sequence[SignalRow]) -> str:
        """Name the number with the largest effect."""
        from luthier.monitor.baseline import NAMES

        self._take()
        loud = NAMES[int(self.evidence.each.argmax())]
        area, low, high = self._told_apart(rows)
        return (
            f"what speaks loudest is: {loud}; a plain classifier tells these requests from the training data with an "
            f"area under the curve of {area:.2f} ({low:.2f} to {high:.2f}; 0.5 is chance)"
        )

    def _take(self) -> None:
        """Rank what came since the last look."""
        if not self._pending:
            return
        from luthier.monitor.windows import hash_to_unit_intervals

        texts = [text.text for text in self._pending]
        numbers = self._numbers.of(texts, self._numbers.points(texts))
        for entry, scores in zip(self._pending, numbers.tolist(), strict=True):
            self.evidence.add(scores, hash_to_unit_intervals(f"{self._seed} {entry.trace}", len(scores)))
        self._pending.clear()

    def _told_apart(self, rows: Sequence[SignalRow]) -> tuple[float, float, float]:
        """Return a classifier's AUC of the rows against the reference; retrained when a third of the rows are new."""
        import numpy as np

        from luthier.models.text_classifier import measure_separability

        rows = rows[-_APART_ROWS:]
        step = max(1, len(rows) // 3)
        version = (len(rows) // step, self.evidence.points_seen // step)
        if self._apart is None or self._apart[0] != version:
            mine = self._numbers.points([row.value.text for row in rows])
            separation = measure_separability(np.vstack([self._points, mine]), len(self._points), len(mine), self._seed)
            self._apart = version, separation
        return self._apart[1]
