"""Making checks of a data set, and putting what they found in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from luthier.artifacts.findings import SEVERITIES, Findings, FlaggedRow
from luthier.data.check import Check, CheckResult
from luthier.data.validate.context import CheckData


class ValidationOutput(NamedTuple):
    """What was found in words and numbers, and the rows."""

    findings: Findings
    marks: list[FlaggedRow]


def run_checks(
    checks: Sequence[Check], data: CheckData, tick: Callable[[int, str], object] = lambda done, name: None
) -> ValidationOutput:
    """Make every check whose needs are met; the worst findings come first, in the order of the checks' kinds."""
    lacks = data.lacks()
    check_results: list[CheckResult] = []
    skipped: dict[str, str] = {}
    for done, check in enumerate(sorted(checks, key=lambda check: check.kind)):
        tick(done, check.kind)
        missing = sorted(check.needs & lacks.keys())
        if missing:
            skipped[check.kind] = lacks[missing[0]]
        else:
            check_results += check.look(data)
    check_results.sort(key=lambda check_result: -SEVERITIES.index(check_result.finding.severity))
    marks = [
        FlaggedRow(check_result.finding.name, row.id, row.split, score, note)
        for check_result in check_results
        for row, score, note in check_result.marks
    ]
    findings = Findings(
        rows=data.available,
        looked_at=len(data.rows),
        findings=tuple(check_result.finding for check_result in check_results),
        skipped=skipped,
    )
    return ValidationOutput(findings, marks)
