"""Prompts that are asked twice and answered in two ways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    PlantedFaults,
    Summed,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckData, CheckRow


class ConflictingAnswers(Check):
    """The same prompt, or nearly the same, with another answer: a model can learn only one of them.

    Twins are found as `near_dedup` finds them: MinHash proposes, the true Jaccard similarity decides. Of free text,
    answers conflict when they share too few words.
    """

    kind: Literal["conflicts"] = "conflicts"
    measures: ClassVar[Mapping[str, str]] = {
        "conflicts": gettext_noop("share of rows whose twin is answered in another way")
    }
    false_alarms: ClassVar[float] = 0.005
    summed: ClassVar[Summed] = "within"

    threshold: float = Field(default=0.9, ge=0.5, le=1)
    """Jaccard similarity of prompts from which two rows are twins; 1: only equal prompts."""
    alike: float = Field(default=0.3, ge=0, le=1)
    """Free answers that share at least this part of their words do not conflict."""
    warning: float = Field(default=0.005, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.1, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        marks: list[tuple[CheckRow, float | None, str]] = []
        equal = 0
        for rows in self._clusters(data):
            if not self._contested(data, rows):
                continue
            usual = Counter(row.label or row.says for row in rows).most_common(1)[0][0]
            equal += len({row.prompt for row in rows}) == 1
            for row in rows:
                other = next(check_row for check_row in rows if check_row.says != row.says)
                note = f"twin {other.id} says {_short(other.says)!r}"
                marks.append((row, 1.0 if (row.label or row.says) != usual else 0.0, note))
        number = share_with_interval(len(marks), len(data.rows), self.measures["conflicts"])
        severity = severity_of_share(number.value, self.warning, self.serious)
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity,
                title=gettext_noop("Conflicting twins" if severity != "info" else "Twins"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(marks), 'row')} of {len(data.rows):,} ({format_percent(number.value)}) "
                    "have a near-identical prompt but a different answer."
                ),
                rows=len(marks),
                numbers={"conflicts": number},
                hint=gettext_noop(
                    "Correct the rows; where they cannot be, drop every row of a prompt with several answers, which "
                    "`exact_dedup` does for equal prompts."
                    if marks
                    else ""
                ),
                mend="ops: [{kind: exact_dedup, conflict: drop}]" if marks and equal else "",
            ),
            marks,
        )

    def _clusters(self, data: CheckData) -> Iterable[list[CheckRow]]:
        """Rows whose prompts are twins, in the order of their ids."""
        from luthier.data.engine.corpus import InMemoryRows
        from luthier.data.ops.near_dedup import NearDedup

        rows = [row.row(number) for number, row in enumerate(data.rows)]
        outcome = NearDedup(threshold=self.threshold, action="flag").settle(InMemoryRows(NearDedup(), rows))
        found: dict[str, list[CheckRow]] = defaultdict(list)
        for row, name in zip(data.rows, outcome.attributes["cluster"], strict=True):
            if name is not None:
                found[name].append(row)
        return [found[name] for name in sorted(found)]

    def _contested(self, data: CheckData, rows: Sequence[CheckRow]) -> bool:
        if data.task == "label":
            return len({row.label for row in rows}) > 1
        answers = [set(row.says.casefold().split()) for row in rows]
        first = answers[0]
        return any(len(first & other) < self.alike * len(first | other) for other in answers[1:])

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every 24th row asks what its neighbour asks, or nearly, and is answered otherwise."""
        check_rows, ids = list(rows), set()
        for index in range(0, len(rows) - 1, 24):
            one, other = rows[index], rows[index + 1]
            answer = other.label and f"not {other.label}"
            prompt = other.prompt if index % 48 else f"{other.prompt}!"
            check_rows[index] = one.saying(prompt=prompt, answer="Something else altogether.", label=answer)
            ids |= {one.id, other.id}
        return PlantedFaults(check_rows, frozenset(ids))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
