"""The rules of an alert, a small grammar:

    when   = name ( ">" | ">=" | "<" | "<=" ) limit [ window ]
    limit  = number ["%"] | "report" [ ("+" | "-") number ["%"] ]
    window = "over" number ("s" | "m" | "h" | "d") | "on" number ("requests" | "answers" | "labels" | "ratings")

`name` is a number of a signal (`latency.p95`, `macro_f1`), `report` what the release's own report said of it.
"accuracy < 0.9 on 200 labels", "latency.p95 > 2 over 10m", "error_rate > 5% over 5m", "macro_f1 < report - 0.03".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from luthier.core.phrase import Phrase, Sign

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COUNTED = frozenset({"requests", "answers", "labels", "ratings"})
"""How people call what a signal counts; all mean the same."""
LONGEST_S = 31 * 86400
MOST_ROWS = 20_000


class Window(NamedTuple):
    """The traffic that a number is of: of the last seconds, or the last events; 0 where it is the other."""

    seconds: int = 0
    events: int = 0

    def __str__(self) -> str:
        return f"on {self.events}" if self.events else f"over {duration(self.seconds)}"


class When(NamedTuple):
    """A condition: a number of a signal, a sign, and a limit that is a number, or the report's value and a margin."""

    name: str
    sign: Sign
    report: bool
    margin: float
    """The limit itself where no report is named."""
    window: Window

    @property
    def upward(self) -> bool:
        """Whether too much is bad."""
        return self.sign.startswith(">")

    def holds(self, value: float, limit: float) -> bool:
        """Whether the value is beyond the limit."""
        found = {
            ">": value > limit,
            ">=": value >= limit,
            "<": value < limit,
            "<=": value <= limit,
        }
        return found[self.sign]


def parse(text: str, usual: Mapping[str, Window]) -> When:
    """Read a condition; `WrongRule` says where it is wrong. `usual` holds each number and its usual window."""
    words = Phrase(text)
    name = words.known(words.take("name", "a number of a signal"), usual, "number")
    sign = words.sign()
    report = words.has("name")
    if report:
        words.take("name", "a number, or `report`", {"report"})
    margin = words.margin() if report else words.limit()
    window = usual[name] if words.has("end") else _window(words)
    words.end()
    return When(name, sign, report, margin, window)


def _window(words: Phrase) -> Window:
    kind = words.take("name", "`over` a time, `on` so many events, or nothing more", {"over", "on"})
    word = words.take("number", "a number")
    if kind.text == "on":
        words.take("name", "labels, ratings, requests or answers", COUNTED)
        if not word.text.isdigit() or not 0 < int(word.text) <= MOST_ROWS:
            raise words.wrong(word.column, f"expected a whole number from 1 to {MOST_ROWS:,}, got {word.text!r}")
        return Window(events=int(word.text))
    unit = words.take("name", "s, m, h or d", UNITS)
    seconds = float(word.text) * UNITS[unit.text]
    if not 1 <= seconds <= LONGEST_S or seconds != int(seconds):
        raise words.wrong(word.column, f"expected whole seconds, at most 31 days, got {word.text}{unit.text}")
    return Window(seconds=int(seconds))


def seconds_of(value: Any) -> Any:
    """Seconds from how people write a time: `10m`, `2h`, `90s`, `1d`, or a number of seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
    if found is None:
        raise ValueError(f"expected a time such as 30s, 10m, 2h or 1d, got {value!r}")
    return float(found[1]) * UNITS[found[2]]


Seconds = Annotated[float, BeforeValidator(seconds_of), Field(ge=0, le=LONGEST_S)]
"""A time, written `10m`, `2h`, `90s` or `1d`, or as a number of seconds."""


def duration(seconds: float) -> str:
    """A time as Prometheus writes it, in the largest unit that is whole: `90m`, `2h`."""
    whole = round(seconds)
    for unit, size in sorted(UNITS.items(), key=lambda one: -one[1]):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return "0s"
