"""The role check: what it finds in a dataset, and how severe it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from luthier.artifacts.findings import Finding, FindingNumber, Severity
from luthier.core.component import Component
from luthier.core.messages import gettext_noop
from luthier.metrics.counts import CountGroup, Counts

if TYPE_CHECKING:
    from luthier.data.validate.context import CheckData, CheckRow


def conclude_shares(check: Check, counts: Counts) -> Iterable[Finding]:
    """The shares of a check over the rows of all data sets; nothing where no row was looked at. The first is judged."""
    numbers = {}
    for measure, about in check.measures.items():
        found = counts.get(f"{check.kind}/{measure}", {})
        marked, rest = found.get(MARKED, 0), found.get(REST, 0)
        if marked + rest:
            numbers[measure] = share_with_interval(marked, marked + rest, about)
    if not numbers:
        return
    first = next(iter(numbers.values()))
    values = check.settings()
    severity = severity_of_share(first.value, values["warning"], values["serious"])
    marked = round(first.value * first.rows)
    yield Finding(
        name=check.kind,
        severity=severity,
        title=check.summary().rstrip("."),
        sentence=gettext_noop(
            f"{marked:,} of {first.rows:,} rows ({format_percent(first.value)}), each site's rows looked at by "
            "themselves: what lies between two sites is not seen."
        ),
        rows=marked,
        numbers=numbers,
        hint=gettext_noop(
            "Look at the rows where they are: `validate` at the site names them." if severity != "info" else ""
        ),
    )


Needs = Literal["labels", "texts", "test", "model", "groups"]
"""What a check cannot do without: classes, free answers, held-out rows, a model, a group of each row."""

Summed = Literal["pooled", "within", "no"]
"""Whether counts over several data sets tell what a check says of all rows together, of the rows of each set by itself,
or nothing."""
MARKED, REST = "marked", "rest"

_NAMED = 20
"""Ids that a remedy spells out."""


class RowNames(NamedTuple):
    """What the rows of several data sets have in common."""

    classes: tuple[str, ...] = ()
    """The classes, sorted."""
    fields: tuple[str, ...] = ()
    """The columns beside the text, sorted."""


@dataclass(frozen=True)
class CheckResult:
    """A finding with the rows that it is about, in the order of their weight."""

    finding: Finding
    marks: Sequence[tuple[CheckRow, float | None, str]] = ()
    """Each row with its score and a sentence about it."""


@dataclass(frozen=True)
class PlantedFaults:
    """Rows that hold the fault which a check looks for."""

    rows: Sequence[CheckRow]
    ids: frozenset[str] = frozenset()
    """The faulty rows; empty when the fault is not one of single rows."""
    media: Mapping[str, bytes] = field(default_factory=dict)
    """The bytes of pictures and sounds that rows hold, by digest."""


class Check(Component):
    """A check of a prepared data set, such as for label errors or class imbalance.

    A check is a pure function of its settings and the rows (and the model, where it reads one). It always says its
    numbers; what it finds in order is `info`.
    """

    role: ClassVar[str] = "check"
    home: ClassVar[str] = "luthier.data.checks"
    measures: ClassVar[Mapping[str, str]]
    """Its numbers, by the name that a gate's rule uses, with what each is."""
    needs: ClassVar[frozenset[Needs]] = frozenset()
    quick: ClassVar[bool] = True
    """Whether it takes seconds for ten thousand rows: then it is part of every proposed recipe."""
    finds: ClassVar[float] = 0.8
    """At least this share of the rows that `plant` damages is marked."""
    false_alarms: ClassVar[float]
    """At most this share of the rows of clean data is marked; of findings that mark no rows, this share of clean data
    sets is warned about."""

    summed: ClassVar[Summed] = "no"
    """What counts over several data sets tell of it."""

    @abstractmethod
    def look(self, data: CheckData) -> Iterable[CheckResult]:
        """Run the check on a prepared data set."""

    def list_count_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """The counts that it can be told by; of a check that looks within each data set, two for each of its shares."""
        groups = [CountGroup(f"{self.kind}/{measure}", (MARKED, REST)) for measure in self.measures]
        return groups if self.summed == "within" else ()

    def count(self, data: CheckData, names: RowNames) -> Counts:
        """Return the counts of one data set that `conclude` sums."""
        numbers = [numbers for result in self.look(data) for numbers in result.finding.numbers.items()]
        return {
            f"{self.kind}/{measure}": {
                MARKED: (marked := round(number.value * number.rows)),
                REST: number.rows - marked,
            }
            for measure, number in numbers
            if number.share
        }

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """What summed counts say; of a check that looks within each data set, its shares."""

        yield from conclude_shares(self, counts)

    @abstractmethod
    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Clean rows with the fault that this check finds: what its documentation means, and its test plants."""


def severity_of_share(share: float, warning: float, serious: float) -> Severity:
    """The severity of a share, given from where on it is a warning and serious."""
    return "serious" if share >= serious else "warning" if share >= warning else "info"


def share_with_interval(count: int, rows: int, about: str) -> FindingNumber:
    """A share of rows with Wilson's interval for the source that they were drawn from."""
    from luthier.metrics.intervals import wilson_interval

    if rows == 0:
        return FindingNumber(value=0, about=about, share=True)
    low, high = wilson_interval(count, rows)
    return FindingNumber(
        value=round(count / rows, 6), low=round(low, 6), high=round(high, 6), rows=rows, about=about, share=True
    )


def damage_every_nth(rows: Sequence[CheckRow], step: int, damage: Callable[[CheckRow], CheckRow]) -> PlantedFaults:
    """Every `step`-th row damaged."""
    check_rows = [damage(row) if index % step == 0 else row for index, row in enumerate(rows)]
    return PlantedFaults(check_rows, frozenset(row.id for index, row in enumerate(check_rows) if index % step == 0))


def format_exclude_setting(rows: Sequence[CheckRow], reason: str) -> str:
    """The setting of `prepare` that leaves rows out; of many, the first, and where the others are."""
    if not rows:
        return ""
    ids = ", ".join(f'"{row.id}"' for row in rows[:_NAMED])
    more = f"  # and {len(rows) - _NAMED:,} more: `luthier export` writes them all" if len(rows) > _NAMED else ""
    return f"ops: [{{kind: exclude_ids, reason: {reason}, ids: [{ids}]}}]{more}"


def format_percent(value: float) -> str:
    """Format a share as a percentage; 100 % only for exactly 1."""
    if 0.995 <= value < 1:
        return "over 99 %"
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.2g} %"
