"""What checks of media share: their finding, and planted faults for their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from luthier.artifacts.findings import Finding, FindingTable
from luthier.chat.media_codec import keep_media
from luthier.chat.messages import MEDIA_MARK
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    CheckResult,
    PlantedFaults,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.validate.context import CheckRow

_PLANTED_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class MediaFindingWords:
    """How a check speaks of rows with faulty media."""

    title: str
    clean_title: str
    """Where no row has the fault."""
    media: str
    """What rows are counted that have any: `sounds`, or `media` for all kinds."""
    singular: str
    """What one row with the fault does: `has a faulty picture or sound`."""
    plural: str
    hint: str
    reason: str
    """Why the remedy leaves rows out, as one word."""


def report_faulty_media(
    name: str,
    words: MediaFindingWords,
    measure: tuple[str, str],
    found: Sequence[tuple[CheckRow, float | None, str]],
    holding: int,
    *,
    warning: float,
    serious: float,
    tables: tuple[FindingTable, ...] = (),
) -> CheckResult:
    """The result of the check `name` that found these of `holding` rows with media; `measure` is the number's name and
    what it is, `warning` and `serious` the shares from which it is one."""
    key, about = measure
    number, count = share_with_interval(len(found), holding, about), len(found)
    return CheckResult(
        Finding(
            name=name,
            severity=severity_of_share(number.value, warning, serious) if found else "info",
            title=words.title if found else words.clean_title,
            sentence=gettext_noop(
                f"{format_counted_noun(count, 'row')} of {holding:,} with {words.media} "
                f"({format_percent(number.value)}) {words.singular if count == 1 else words.plural}."
            ),
            rows=count,
            numbers={key: number},
            hint=words.hint if found else "",
            mend=format_exclude_setting([row for row, _, _ in found], words.reason),
            tables=tables,
        ),
        found,
    )


def plant_media(rows: Sequence[CheckRow], make: Callable[[int, bool], bytes]) -> PlantedFaults:
    """Rows with what `make` makes of a row's index in their last question, and every twentieth faulty."""
    contents: dict[str, bytes] = {}
    faulty: set[str] = set()
    planted = []
    for index, row in enumerate(rows):
        bad = index % _PLANTED_EVERY == 0
        kept = keep_media(make(index, bad))
        contents[kept.media.digest] = kept.content
        turns = list(row.messages)
        turns[-2] = turns[-2].model_copy(
            update={"content": f"{MEDIA_MARK} {turns[-2].content}", "media": (kept.media,)}
        )
        planted.append(replace(row, messages=tuple(turns)))
        if bad:
            faulty.add(row.id)
    return PlantedFaults(planted, frozenset(faulty), contents)
