"""Rows that hold personal data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding, FindingNumber, FindingTable
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    MARKED,
    REST,
    Check,
    CheckResult,
    PlantedFaults,
    RowNames,
    Summed,
    damage_every_nth,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow
from luthier.metrics.counts import CountGroup, Counts
from luthier.pii.span import PATTERN_KINDS, PiiKind


class PersonalData(Check):
    """Rows in which personal data stands that patterns find: addresses of mail, numbers of phones, accounts and cards.

    It finds what the operator `pii` masks without a recognizer of names. A row counts once, and once for each kind.
    """

    kind: Literal["personal_data"] = "personal_data"
    measures: ClassVar[Mapping[str, str]] = {"personal_data": gettext_noop("share of rows that hold personal data")}
    quick: ClassVar[bool] = False
    false_alarms: ClassVar[float] = 0.01
    summed: ClassVar[Summed] = "pooled"

    kinds: tuple[PiiKind, ...] = Field(default=PATTERN_KINDS, min_length=1)
    """What counts; names of people need a recognizer and are not looked for here."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.5, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        found = [(row, self._find_kinds(row)) for row in data.rows]
        marks = [(row, None, ", ".join(sorted(kinds))) for row, kinds in found if kinds]
        yield CheckResult(
            self._tell(len(marks), len(found), Counter(kind for _, kinds in found for kind in kinds)), marks
        )

    def list_count_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Rows with any kind of personal data, and with each."""
        groups = [self.kind, *(f"{self.kind}/{kind}" for kind in self.kinds)]
        return [CountGroup(name, (MARKED, REST)) for name in groups]

    def count(self, data: CheckData, names: RowNames) -> Counts:
        """The same of one data set."""
        found = [self._find_kinds(row) for row in data.rows]
        counts: dict[str, int] = {self.kind: sum(map(bool, found))}
        counts |= {f"{self.kind}/{kind}": sum(kind in kinds for kinds in found) for kind in self.kinds}
        return {name: {MARKED: marked, REST: len(found) - marked} for name, marked in counts.items()}

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """The same of the rows of all sites."""
        kinds = Counter[str]({kind: counts[f"{self.kind}/{kind}"][MARKED] for kind in self.kinds})
        yield self._tell(counts[self.kind][MARKED], sum(counts[self.kind].values()), +kinds)

    def _find_kinds(self, row: CheckRow) -> set[str]:
        from luthier.pii.detect import find_pii

        text = "\n".join(message.content for message in row.messages)
        return {found.kind for found in find_pii(text, self.kinds)}

    def _tell(self, marked: int, rows: int, kinds: Mapping[str, int]) -> Finding:
        number: FindingNumber = share_with_interval(marked, rows, self.measures["personal_data"])
        ordered = tuple(sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0])))
        return Finding(
            name=self.kind,
            severity=severity_of_share(number.value, self.warning, self.serious),
            title=gettext_noop("Personal data"),
            sentence=gettext_noop(
                f"{format_counted_noun(marked, 'row')} of {rows:,} ({format_percent(number.value)}) "
                f"{'holds' if marked == 1 else 'hold'} "
                "personal data that patterns find."
            ),
            rows=marked,
            numbers={"personal_data": number},
            hint=gettext_noop("Mask or replace it, unless a model shall learn it." if marked else ""),
            mend="ops: [{kind: pii, action: mask}]" if marked else "",
            tables=(FindingTable(title=gettext_noop("Rows with each kind"), columns=("kind", "rows"), rows=ordered),)
            if ordered
            else (),
        )

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every tenth prompt ends with an address of mail."""
        return damage_every_nth(
            rows, 10, lambda row: row.saying(prompt=f"{row.prompt} Write to anna.meier@example.com")
        )
