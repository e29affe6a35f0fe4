"""Check by a learning curve: how much more rows would help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable, Severity
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, Needs, PlantedFaults
from luthier.data.validate.context import CheckData, CheckRow, first_parent_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST = 20
"""Rows to learn from and to measure on below which no curve can be drawn."""


class LearningCurve(Check):
    """How the error falls as rows are added, and what twice as many rows would bring.

    A plain classifier learns from growing parts of the training rows and is measured on rows that it never sees.
    Several laws of learning curves are fitted to the error, averaged and read at twice the rows
    (`luthier.metrics.learning_curve`). The step `curve` measures any metric so, and foretells further.
    """

    kind: Literal["enough"] = "enough"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {
        "enough.error": gettext_noop("error of the plain classifier with all training rows"),
        "enough.gain": gettext_noop("error that twice as many training rows would take off"),
    }
    quick: ClassVar[bool] = False
    false_alarms: ClassVar[float] = 0.0

    on: Literal["classifier", "model"] = "classifier"
    """What learns: TF-IDF with logistic regression, or logistic regression over what the step's `model` makes of each
    prompt (its mean last hidden state, weights as they are)."""
    sizes: tuple[float, ...] = Field(default=(0.125, 0.25, 0.5, 0.75, 1.0), min_length=3)
    """Shares of the training rows that are learnt from."""
    repeats: int = Field(default=3, ge=1)
    """Draws of each share."""
    warning: float = Field(default=0.02, ge=0, le=1)
    """Gain from twice the rows from which more rows are worth gathering, by the lower end of its interval."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        import numpy as np

        learn, ask = _parted(data)
        if min(len(learn), len(ask)) < _LEAST or len(data.labels) < 2:
            yield self._too_few(len(data.rows))
            return
        matrix = self._matrix(data)
        counts = sorted({max(2, round(share * len(learn))) for share in self.sizes})
        wrong = np.array([self._wrong(matrix, data, learn, ask, count) for count in counts])  # (sizes, repeats, rows)
        error, gain = _read(np.array(counts, dtype=float), wrong, data.seed)
        low, high = gain.ends
        is_gathered = any(first_parent_id(row) for row in data.rows)
        severity: Severity = "warning" if low >= self.warning else "info"
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity,
                title=gettext_noop("More rows would help" if severity != "info" else "Rows"),
                sentence=gettext_noop(
                    f"With {len(learn):,} {'gathered ' if is_gathered else ''}training rows the "
                    f"{'plain classifier' if self.on == 'classifier' else 'model with a plain head'} errs on "
                    f"{100 * error.value:.1f} % of held-out rows; twice as many would take off {100 * gain.value:.1f} "
                    f"points (95 % interval {100 * low:.1f} to {100 * high:.1f})."
                ),
                numbers={"enough.error": error, "enough.gain": gain},
                hint=gettext_noop(
                    "Gather or make more rows before you tune longer or larger; of the classes that are told apart "
                    "worst, first."
                    if severity != "info"
                    else ""
                ),
                tables=(_table(counts, wrong),),
            )
        )

    def _too_few(self, rows: int) -> CheckResult:
        numbers = {
            name: FindingNumber(value=0, low=0, high=1, rows=rows, about=about, share=True)
            for name, about in self.measures.items()
        }
        sentence = gettext_noop(
            f"There are too few rows to draw a curve: at least {_LEAST} to learn from and {_LEAST} to measure on."
        )
        return CheckResult(
            Finding(name=self.kind, severity="info", title=gettext_noop("Rows"), sentence=sentence, numbers=numbers)
        )

    def _matrix(self, data: CheckData) -> Any:
        from luthier.models.text_classifier import compute_tfidf_features

        if self.on == "classifier":
            return compute_tfidf_features(data.prompts)
        return data.states

    def _wrong(
        self, matrix: Any, data: CheckData, learn: Sequence[int], ask: Sequence[int], count: int
    ) -> NDArray[np.bool_]:
        """(repeats, rows): which measured rows are wrong after learning from `count` rows, draw by draw."""
        import numpy as np

        from luthier.models.text_classifier import build_logistic_regression

        found = np.zeros((self.repeats, len(ask)), dtype=bool)
        for draw in range(self.repeats):
            order = np.random.default_rng([data.seed, draw]).permutation(np.array(learn))
            chosen = np.sort(order[:count])  # nested: what a smaller part holds, a larger one does
            known = np.unique(data.codes[chosen])
            predicted = known[0]
            if len(known) > 1:
                predicted = (
                    build_logistic_regression().fit(matrix[chosen], data.codes[chosen]).predict(matrix[np.array(ask)])
                )
            found[draw] = predicted != data.codes[np.array(ask)]
        return found

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every prompt is one of three hundred words of its class: most were never seen before."""
        return PlantedFaults([row.saying(prompt=f"{row.label}{int(row.id, 16) % 300}") for row in rows])


def _parted(data: CheckData) -> tuple[list[int], list[int]]:
    """Rows to learn from and rows to measure on: the held-out ones, or every fourth when there are none.

    Nothing is learnt from rows that were made of others: with them, part of the rows would hold all that there is.
    """
    training = data.of_split("train")
    learn = [at for at in training if first_parent_id(data.rows[at]) is None] or training
    ask = data.of_split("test", "validation")
    if ask:
        return learn, ask
    return [index for index in learn if index % 4], [index for index in learn if index % 4 == 0]


def _read(counts: NDArray[np.float64], wrong: NDArray[np.bool_], seed: int) -> tuple[FindingNumber, FindingNumber]:
    """The error with all rows, and what twice as many would take off it, with their intervals."""
    from luthier.metrics.intervals import wilson_interval
    from luthier.metrics.learning_curve import forecast_errors

    rows = wrong.shape[2]
    forecast_number = forecast_errors(counts, wrong, seed).drop(2 * float(counts[-1]))
    last = float(wrong[-1].mean())
    ends = wilson_interval(last * rows, rows)
    gain = FindingNumber(
        value=round(forecast_number.value, 5),
        low=round(forecast_number.low, 5),
        high=round(forecast_number.high, 5),
        rows=rows,
        about=LearningCurve.measures["enough.gain"],
        share=True,
    )
    error = FindingNumber(
        value=round(last, 5),
        low=round(ends[0], 5),
        high=round(ends[1], 5),
        rows=rows,
        about=LearningCurve.measures["enough.error"],
        share=True,
    )
    return error, gain


def _table(counts: Sequence[int], wrong: NDArray[np.bool_]) -> FindingTable:
    rows = tuple(
        (
            count,
            round(float(line.mean()), 4),
            round(float(line.mean(axis=1).min()), 4),
            round(float(line.mean(axis=1).max()), 4),
        )
        for count, line in zip(counts, wrong, strict=True)
    )
    heads = ("training rows", "error", "of the best draw", "of the worst draw")
    return FindingTable(title=gettext_noop("Learning curve"), columns=heads, rows=rows)
