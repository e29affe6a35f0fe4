"""What counts over several data sets say, where each set is looked at by itself."""

from __future__ import annotations

from collections.abc import Iterable

from luthier.artifacts.findings import Finding
from luthier.data.check import MARKED, REST, Check, format_percent, severity_of_share, share_with_interval
from luthier.metrics.counts import Counts


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
        sentence=f"{marked:,} of {first.rows:,} rows ({format_percent(first.value)}), each site's rows looked at by "
        "themselves: what lies between two sites is not seen.",
        rows=marked,
        numbers=numbers,
        hint="Look at the rows where they are: `validate` at the site names them." if severity != "info" else "",
    )
