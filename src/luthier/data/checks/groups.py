"""Check of group balance: whether the user's groups are all present and get the same answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Cell, Finding, FindingNumber, FindingTable, Severity
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import Check, CheckResult, Needs, PlantedFaults, format_percent
from luthier.data.validate.context import CheckData, CheckRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GroupBalance(Check):
    """Groups of the user's own rows (a channel, a region, an age band) that are rare, or whose classes differ.

    Whether classes depend on the group is measured by Cramér's V, corrected for bias (Bergsma 2013), with a bootstrap
    interval; 0 is independence, 1 means that the group decides the class. Copies of a row count once there. A
    dependence can be true of the world: it says where to look, and what a model will learn.
    """

    kind: Literal["group_balance"] = "group_balance"
    needs: ClassVar[frozenset[Needs]] = frozenset({"labels"})
    measures: ClassVar[Mapping[str, str]] = {
        "groups.smallest": gettext_noop("share of rows of the smallest group"),
        "groups.association": gettext_noop("how much the class depends on the group (Cramér's V)"),
    }
    false_alarms: ClassVar[float] = 0.0

    column: str | None = None
    """The column that tells the groups apart, one that was not mapped; left out, the source's `group`, as long as it
    has few values."""
    max: int = Field(default=50, ge=2)
    """A column with more values than this tells no groups apart."""
    rare: float = Field(default=0.02, ge=0, le=1)
    """Groups below this share of the rows are rare, where there are so few groups that an even share is far above it:
    a group with a quarter of an even share is not."""
    warning: float = Field(default=0.2, ge=0, le=1)
    """Cramér's V from which a dependence is a warning, by the lower end of its interval."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        rows = [(row, group) for row in data.rows if (group := self._group(row))]
        sizes = Counter(group for _, group in rows)
        if not 2 <= len(sizes) <= self.max:
            yield self._none(len(sizes), len(data.rows))
            return
        yield self._sizes(rows, sizes)
        heads = dict(zip((row.id for row in data.rows), data.heads.tolist(), strict=True))
        once = sorted({(heads[row.id], group, row.label or "") for row, group in rows})
        table = _counted([group for _, group, _ in once], [label for _, _, label in once], sorted(sizes), data.labels)
        yield self._association(table, sorted(sizes), data)

    def _sizes(self, rows: Sequence[tuple[CheckRow, str]], sizes: Counter[str]) -> CheckResult:
        """Report the groups, and the rare ones among them."""
        smallest = min(sizes.items(), key=lambda size: (size[1], size[0]))
        share = smallest[1] / len(rows)
        rare = [name for name in sorted(sizes) if sizes[name] < min(self.rare, 0.25 / len(sizes)) * len(rows)]
        about = self.measures["groups.smallest"]
        smallest_share = FindingNumber(value=round(share, 6), rows=len(rows), share=True, about=about)
        return CheckResult(
            Finding(
                name=self.kind,
                severity="warning" if rare else "info",
                title=gettext_noop("Rare groups" if rare else "Groups"),
                sentence=gettext_noop(
                    f"{len(rows):,} rows are of {len(sizes)} groups; the smallest, {smallest[0]!r}, has "
                    f"{smallest[1]:,} ({format_percent(share)})."
                ),
                rows=sum(sizes[name] for name in rare),
                numbers={"groups.smallest": smallest_share},
                hint=gettext_noop(
                    f"Gather rows of {', '.join(rare[:5])}: what a model does for so few can neither be learnt nor "
                    "measured."
                    if rare
                    else ""
                ),
            ),
            [(row, None, f"group {group!r}") for row, group in rows if group in rare],
        )

    def _association(self, table: NDArray[np.int64], names: Sequence[str], data: CheckData) -> CheckResult:
        """Report how strongly the class depends on the group (Cramér's V)."""
        strength = cramers_v_with_interval(table, data.seed)
        low, high = strength.ends
        severity: Severity = "warning" if low >= self.warning else "info"
        return CheckResult(
            Finding(
                name=f"{self.kind}.association",
                severity=severity,
                title=gettext_noop("Classes that depend on the group" if severity != "info" else "Classes by group"),
                sentence=gettext_noop(
                    f"How much the class depends on the group is {strength.value:.2f} (95 % interval {low:.2f} to "
                    f"{high:.2f}) on a scale of 0 to 1."
                ),
                numbers={"groups.association": strength},
                hint=gettext_noop(
                    "Ask whether the world or the collection makes it so; measure each group apart "
                    "(`probes: [{kind: group_gap, column: …}]` of `evaluate`), and keep what names the group out of "
                    "the prompt."
                    if severity != "info"
                    else ""
                ),
                tables=(_table(table, names, data.labels),),
            )
        )

    def _group(self, row: CheckRow) -> str:
        value = row.group if self.column is None else row.meta.get(self.column)
        return "" if value in (None, "") else str(value)

    def _none(self, groups: int, rows: int) -> CheckResult:
        """Report that the rows belong to too few or too many groups to compare."""
        numbers = {name: FindingNumber(value=0, rows=rows, about=about) for name, about in self.measures.items()}
        sentence = gettext_noop(
            f"The source's `group` tells {format_counted_noun(groups, 'group')} apart: between 2 and {self.max} are "
            "compared."
            if self.column is None
            else f"Column {self.column!r} tells {format_counted_noun(groups, 'group')} apart: between 2 and {self.max} "
            "are compared."
        )
        return CheckResult(
            Finding(name=self.kind, severity="info", title=gettext_noop("Groups"), sentence=sentence, numbers=numbers)
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """One class comes by mail only, and three rows by fax."""
        first = min(row.label or "" for row in rows)
        fax = {row.id for row in rows[1:4]}
        check_rows = [
            replace(row, group="fax" if row.id in fax else "mail" if row.label == first else "web") for row in rows
        ]
        return PlantedFaults(check_rows, frozenset(fax))


def _counted(
    groups: Sequence[str], labels: Sequence[str], names: Sequence[str], classes: Sequence[str]
) -> NDArray[np.int64]:
    """(groups, classes): rows of each."""
    import numpy as np

    table = np.zeros((len(names), len(classes)), dtype=np.int64)
    row_of, columns = ({name: at for at, name in enumerate(found)} for found in (names, classes))
    for group, label in zip(groups, labels, strict=True):
        table[row_of[group], columns[label]] += 1
    return table


def cramers_v_with_interval(table: NDArray[np.int64], seed: int, resamples: int = 500) -> FindingNumber:
    """Cramér's V without its bias, with a percentile bootstrap interval over the rows of the table.

    What chance gave the table is in every resample again. How much that is, is known of independence, and it is less
    where there is dependence: the lower end is taken without it, the upper end with it.
    """
    import numpy as np

    rows = int(table.sum())
    random = np.random.default_rng(seed)
    drawn = random.multinomial(rows, (table / rows).ravel(), size=resamples).reshape(-1, *table.shape)
    chance = _chance(table)
    value = cramers_v(table)
    low = min(value, float(np.quantile([cramers_v(entry, chance) for entry in drawn], 0.025)))
    high = max(value, float(np.quantile([cramers_v(entry) for entry in drawn], 0.975)))
    about = GroupBalance.measures["groups.association"]
    return FindingNumber(value=round(value, 4), low=round(low, 4), high=round(high, 4), rows=rows, about=about)


def _chance(table: NDArray[np.int64]) -> float:
    """The squared contingency that chance alone gives a table, on average; so much of it is in every resample of it."""
    height, width = ((table.sum(axis=axis) > 0).sum() for axis in (1, 0))
    return float((height - 1) * (width - 1) / max(table.sum() - 1, 1))


def cramers_v(table: NDArray[np.int64], more: float = 0.0) -> float:
    """Of a contingency table, without its bias (Bergsma 2013, J. Korean Stat. Soc. 42); 0 when a side has one value.

    `more` is the bias of the table from which this one was drawn: a resample has it beside its own.
    """
    import numpy as np

    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    height, width, rows = len(table), table.shape[1], float(table.sum())
    if height < 2 or width < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / rows
    phi2 = float(((table - expected) ** 2 / expected).sum()) / rows
    phi2 = max(0.0, phi2 - (height - 1) * (width - 1) / (rows - 1) - more)
    sides = (height - (height - 1) ** 2 / (rows - 1), width - (width - 1) ** 2 / (rows - 1))
    return min(1.0, math.sqrt(phi2 / max(min(sides) - 1, 1e-12)))


def _table(table: NDArray[np.int64], names: Sequence[str], classes: Sequence[str]) -> FindingTable:
    """Rows of each group; with few classes, of each class in it."""
    shown = list(classes) if len(classes) <= 8 else []
    lines = zip(names, table.tolist(), strict=True)
    rows: list[tuple[Cell, ...]] = [(name, sum(line), *line[: len(shown)]) for name, line in lines]
    return FindingTable(title=gettext_noop("Rows of each group"), columns=("group", "rows", *shown), rows=tuple(rows))
