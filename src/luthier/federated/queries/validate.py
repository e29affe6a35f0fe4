"""Data checks over the rows of all sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.component import components_by_kind
from luthier.data.check import Check, RowNames
from luthier.federated.analytics.query import SiteQuery, SiteRows
from luthier.metrics.counts import CountGroup, Counts

UNSUMMED: Mapping[str, str] = {
    "bias_terms": "it compares pairs of rows over all sites",
    "enough": "it trains on all rows together",
    "group_balance": "it tells of groups by names that are texts of the rows",
    "media_shortcuts": "it trains on all rows together",
    "perplexity_outliers": "it reads a model over all rows",
    "shift": "it compares words over all rows",
}
"""Why a check cannot be computed from counts."""


def list_summed_checks() -> tuple[Check, ...]:
    """Each check that counts tell of and that takes seconds, with its usual settings."""
    return tuple(
        kind.parse(name)
        for name, kind in sorted(components_by_kind(Check).items())
        if kind.summed != "no" and kind.quick
    )


class ValidateQuery(SiteQuery):
    """What the checks of `validate` say of the rows of all sites, as far as counts can tell it."""

    kind: Literal["validate"] = "validate"

    checks: tuple[Check, ...] = Field(default_factory=list_summed_checks)
    """What is looked for."""

    def list_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """The counts of all checks."""
        groups = {group.name: group for check in self.checks for group in check.list_count_groups(names)}
        return list(groups.values())

    def count(self, rows: SiteRows, names: RowNames) -> Counts:
        """Count one site's rows; missing values are not counted."""
        lacks, found = rows.data.lacks(), dict[str, Mapping[str, int]]()
        for check in self.checks:
            if not check.needs & lacks.keys():
                found.update(check.count(rows.data, names))
        return found

    def refuses(self) -> str:
        """A check that counts do not tell of."""
        for check in self.checks:
            if check.summed == "no":
                return (
                    f"{check.kind} cannot be told by counts: {UNSUMMED.get(check.kind, 'it reads all rows together')}"
                )
        return ""

    def find_noise_obstacle(self, names: RowNames) -> str:
        """A check that looks within each site lets one row mark others."""
        for check in self.checks:
            if check.summed == "within":
                return f"in {check.kind} one row may decide whether others are marked"
        return ""

    def conclude(self, counts: Counts, names: RowNames) -> Iterable[Finding]:
        """Return the conclusions from the summed counts."""
        for check in self.checks:
            yield from check.conclude(counts, names)
