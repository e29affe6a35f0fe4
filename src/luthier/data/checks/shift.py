"""Check of distribution shift between training rows and held-out rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.embeddings.base import Embedder
from luthier.models.text_classifier import measure_separability

_PIECE = 4000
"""Rows of either side that the classifier sees."""


class DistributionShift(Check):
    """Test whether held-out rows are distributed differently from the training rows.

    A classifier two-sample test (Lopez-Paz and Oquab 2017): a plain classifier tries to tell held-out from training
    rows that it did not see; an area under the curve of 0.5 means that it cannot. Its interval is that of Hanley and
    McNeil 1982. Of copies and of what was made of a row one is looked at: by the others it would be known again.
    Beside it the words and classes of either side are compared.
    """

    kind: Literal["shift"] = "shift"
    needs: ClassVar[frozenset[Needs]] = frozenset({"test"})
    measures: ClassVar[Mapping[str, str]] = {
        "shift": gettext_noop("area under the curve of telling held-out from training rows"),
        "shift.labels": gettext_noop("total variation between the classes of held-out and training rows"),
        "shift.words": gettext_noop("share of the words of held-out rows that no training row has"),
    }
    false_alarms: ClassVar[float] = 0.0

    embedder: Embedder | None = None
    """What the classifier sees: words and pairs of words where none is named, else the points of an embedder; those of
    an `encoder` tell topics apart rather than wordings."""
    warning: float = Field(default=0.6, ge=0.5, le=1)
    """Area under the curve from which it is a warning, by the lower end of the interval."""
    serious: float = Field(default=0.8, ge=0.5, le=1)
    """The same from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        train, test = (_some(data, split) for split in ("train", "test"))
        area, low, high = measure_separability(self._features(data, [*train, *test]), len(train), len(test), data.seed)
        number = FindingNumber(
            value=area, low=low, high=high, rows=len(train) + len(test), about=self.measures["shift"]
        )
        labels = self._labels(data)
        words = self._words(data)
        severity = severity_of_share(low, self.warning, self.serious)
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity,
                title=gettext_noop("Held-out rows of another kind" if severity != "info" else "Split"),
                sentence=gettext_noop(
                    f"A plain classifier tells held-out from training rows with an area under the curve of "
                    f"{area:.2f} (95 % interval {low:.2f} to {high:.2f}; 0.5 is chance); "
                    f"{format_percent(words.value)} of the "
                    "words of held-out rows stand in no training row."
                ),
                numbers={"shift": number, "shift.labels": labels, "shift.words": words},
                hint=gettext_noop(
                    "Draw the held-out rows by content from the same source (`split`), unless the difference is "
                    "what you want to measure."
                    if severity != "info"
                    else ""
                ),
                mend="split: {test: 0.2}" if severity != "info" else "",
                tables=(_shares(data),) if data.task == "label" else (),
            )
        )

    def _features(self, data: CheckData, indices: Sequence[int]) -> Any:
        """(rows, width): what the classifier sees of rows."""
        from luthier.models.text_classifier import compute_tfidf_features

        if self.embedder is None:
            return compute_tfidf_features([data.prompts[at] for at in indices])
        return data.points(self.embedder)[indices]

    def _labels(self, data: CheckData) -> FindingNumber:
        """Half the summed difference of shares, with what chance alone would give as the interval's lower end."""
        counts = [Counter(data.rows[at].label or "" for at in data.of_split(split)) for split in ("train", "test")]
        totals = [max(1, count.total()) for count in counts]
        apart = [abs(counts[0][label] / totals[0] - counts[1][label] / totals[1]) for label in data.labels]
        rows = sum(count.total() for count in counts)
        return FindingNumber(value=round(sum(apart) / 2, 6), rows=rows, about=self.measures["shift.labels"], share=True)

    def _words(self, data: CheckData) -> FindingNumber:
        known = {word for at in data.of_split("train") for word in data.prompts[at].casefold().split()}
        words = [word for at in data.of_split("test") for word in data.prompts[at].casefold().split()]
        return share_with_interval(sum(word not in known for word in words), len(words), self.measures["shift.words"])

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Most rows of one class are held out; of free text, every second held-out prompt is in other words."""
        first = min(row.label or "" for row in rows)
        made = []
        for index, row in enumerate(rows):
            if row.label == first and index % 16:
                made.append(replace(row, split="test"))
            elif row.label is None and row.split == "test" and index % 2:
                made.append(row.saying(prompt=f"bonjour {row.prompt}"))
            else:
                made.append(row)
        return PlantedFaults(made)


def _some(data: CheckData, split: str) -> list[int]:
    """Rows of a split, one of copies and of what was made of a row, at even distances when they are many."""
    indices = data.alone(split)
    return indices[:: -(-len(indices) // _PIECE) or 1]


def _shares(data: CheckData) -> FindingTable:
    counts = [Counter(data.rows[at].label or "" for at in data.of_split(split)) for split in ("train", "test")]
    rows = [
        (label, counts[0][label], counts[1][label], round(counts[1][label] / max(1, sum(c[label] for c in counts)), 4))
        for label in data.labels
    ]
    return FindingTable(
        title=gettext_noop("Rows of each class"), columns=("class", "train", "test", "share held out"), rows=tuple(rows)
    )
