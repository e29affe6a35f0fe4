"""Check of media shortcuts: whether a file's size or format predicts its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, Needs, PlantedFaults
from luthier.data.checks.groups import cramers_v_with_interval
from luthier.data.validate.context import CheckData, CheckRow

_FEATURES: Mapping[str, Callable[[Media], float | str | None]] = {
    "kind": lambda media: media.kind,
    "format": lambda media: media.format,
    "width": lambda media: media.width,
    "height": lambda media: media.height,
    "bytes": lambda media: float(media.size),
    "seconds": lambda media: media.seconds,
    "rate": lambda media: media.rate,
}
_NAMED = 8
"""Values of a property that are told apart; of more, their ranges."""


class MediaShortcuts(Check):
    """Properties of files (format, width, height, bytes, seconds, rate) that foretell the class: a shortcut.

    A model that learns them is right here and wrong elsewhere, as where all pictures of one class came from one camera.
    Dependence is Cramér's V, corrected for bias (Bergsma 2013), with a bootstrap interval; numbers with many values are
    told apart by quantiles. Bytes say how much there is to see, so that some dependence there is natural.
    """

    kind: Literal["media_shortcuts"] = "media_shortcuts"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {
        "media.shortcut": gettext_noop(
            "how much the class depends on a property of the file (Cramér's V, the strongest)"
        )
    }
    false_alarms: ClassVar[float] = 0.0

    warning: float = Field(default=0.6, ge=0, le=1)
    """Cramér's V from which a dependence is a warning, by the lower end of its interval."""
    serious: float = Field(default=0.9, ge=0, le=1)
    """And from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        rows = [(media[0], row.label or "") for row in data.rows if (media := _media_of(row))]
        strengths = {
            name: number for name, of in _FEATURES.items() if (number := _strength(rows, of, data.seed)) is not None
        }
        name, number = max(
            strengths.items(),
            key=lambda item: (item[1].ends[0], item[1].value),
            default=("", FindingNumber(value=0, rows=len(rows), about=self.measures["media.shortcut"])),
        )
        low = number.ends[0]
        is_strong = bool(name) and low >= self.warning
        sentence = gettext_noop("No property of the files tells the classes apart.")
        if name:
            sentence = gettext_noop(
                f"The class depends on the {name} of the files by {number.value:.2f} (95 % interval {low:.2f} to "
                f"{number.ends[1]:.2f}) on a scale of 0 to 1, the most of {len(strengths)} properties."
            )
        table = tuple((feature, f"{entry.value:.2f}", f"{entry.ends[0]:.2f}") for feature, entry in strengths.items())
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=("serious" if low >= self.serious else "warning") if is_strong else "info",
                title=gettext_noop(
                    f"The {name} of files foretells the class" if is_strong else "Properties of files by class"
                ),
                sentence=sentence,
                rows=0,
                numbers={"media.shortcut": number},
                hint=gettext_noop(
                    f"Bring all classes to one {name} (the same camera, microphone and encoder for each), or gather "
                    "rows in which it varies; measure on files from elsewhere."
                    if is_strong
                    else ""
                ),
                tables=(
                    (
                        FindingTable(
                            title=gettext_noop("By property"), columns=("property", "V", "at least"), rows=table
                        ),
                    )
                    if table
                    else ()
                ),
            )
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Each class has pictures of its own width."""
        widths = {label: 100 + 10 * at for at, label in enumerate(sorted({row.label or "" for row in rows}))}
        planted = []
        for index, row in enumerate(rows):
            size = {"size": 1000 + index % 97, "width": widths[row.label or ""], "height": 100}
            media = Media.model_validate({"kind": "image", "digest": f"{index:064x}", "format": "png", **size})
            turns = list(row.messages)
            turns[-2] = turns[-2].model_copy(update={"content": f"{MEDIA_MARK} {turns[-2].content}", "media": (media,)})
            planted.append(replace(row, messages=tuple(turns)))
        return PlantedFaults(planted)


def _media_of(row: CheckRow) -> list[Media]:
    return [media for message in row.messages for media in message.media]


def _strength(
    rows: Sequence[tuple[Media, str]], feature: Callable[[Media], float | str | None], seed: int
) -> FindingNumber | None:
    """How much the class depends on a property; None where it is the same everywhere, or there are no two classes."""
    import numpy as np

    pairs = [(value, label) for media, label in rows if (value := feature(media)) is not None]
    values, labels = sorted({value for value, _ in pairs}, key=str), sorted({label for _, label in pairs})
    if len(values) < 2 or len(labels) < 2:
        return None
    if len(values) > _NAMED and not any(isinstance(value, str) for value in values):
        numbers = np.array([float(value) for value, _ in pairs])
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _NAMED + 1)[1:-1]))
        bins = np.digitize(numbers, edges).tolist()
        pairs = [(where, label) for where, (_, label) in zip(bins, pairs, strict=True)]
        values = sorted(set(bins))
    counts = Counter(pairs)
    table = np.array([[counts[value, label] for label in labels] for value in values], dtype=np.int64)
    found = cramers_v_with_interval(table[table.sum(axis=1) > 0], seed)
    return found.model_copy(update={"about": MediaShortcuts.measures["media.shortcut"]})
