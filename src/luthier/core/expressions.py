"""One grammar for the rules of gates and the conditions of alerts.

    expression = name ( ">" | ">=" | "<" | "<=" ) limit [ window ] | "no" severity "findings"
    limit      = number ["%"] | reference [ ("+" | "-") number ["%"] ]
    window     = "over" number ("s" | "m" | "h" | "d") | "on" number ("requests" | "answers" | "labels" | "ratings")

Which names and references there are, what a per cent is a hundredth of, and whether windows and counts of findings
have a meaning, a `ExpressionVocabulary` says: that of gates is in `luthier.eval.gate_vocabulary`, that of alerts in
`luthier.monitor.plan`.
"accuracy < 0.9 on 200 labels", "latency.p95 > 2 over 10m", "macro_f1 > base - 1%", "no serious findings".
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from luthier.core.errors import did_you_mean

Sign = Literal[">", ">=", "<", "<="]
SIGNS = frozenset({">", ">=", "<", "<="})
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EVENT_NAMES = frozenset({"requests", "answers", "labels", "ratings"})
"""How people call what a signal counts; all mean the same."""
MAX_SECONDS = 31 * 86400
MAX_EVENTS = 20_000
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.]*)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<sign>[<>]=?|[+-])|(?P<percent>%))"
)
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*")


class ExpressionError(ValueError):
    """An expression that does not follow the grammar, with the column (from 1) where it stops making sense."""


class ExpressionToken(NamedTuple):
    """A name, a number, a sign, `%`, or the end of an expression."""

    kind: str
    text: str
    column: int
    source: str
    """The whole expression."""

    def error(self, what: str) -> ExpressionError:
        """The error to raise: what is wrong, and where."""
        return ExpressionError(f"rule {self.source!r}, column {self.column}: {what}")

    def match(self, names: Iterable[str], title: str) -> str:
        """The one of some names that is meant; case and underscores are ignored (`rouge_l` is `rougeL`)."""
        known = {simplify_name(name): name for name in names}
        found = known.get(simplify_name(self.text))
        if found is None:
            raise self.error(f"{title} {self.text!r} is unknown; {did_you_mean(self.text, known.values())}")
        return found


class Window(NamedTuple):
    """The traffic that a number is of: of the last seconds, or the last events; 0 where it is the other."""

    seconds: int = 0
    events: int = 0

    def __str__(self) -> str:
        return f"on {self.events}" if self.events else f"over {format_duration(self.seconds)}"


class ThresholdExpression(NamedTuple):
    """A comparison of a named number with a threshold: a constant, or a reference's value plus a margin."""

    name: str
    sign: Sign
    reference: str | None
    margin: float
    """The limit itself where there is no reference."""
    window: Window = Window()
    """The traffic that the number is of; nothing where windows have no meaning."""

    @property
    def upward(self) -> bool:
        """Whether it holds above the limit."""
        return self.sign.startswith(">")

    @property
    def strict(self) -> bool:
        """Whether it does not hold at the limit itself."""
        return len(self.sign) == 1

    def holds(self, value: float, limit: float) -> bool:
        """Whether it holds for a value and a limit; never for nan."""
        return (value > limit if self.upward else value < limit) or (value == limit and not self.strict)


class ExpressionVocabulary(ABC):
    """Resolves the names that expressions of one kind may use; subclasses define the names."""

    name_wanted = "a number"
    """What an error asks for where the name should stand."""
    limit_wanted = "a number"
    """What an error asks for where the limit should stand."""

    @abstractmethod
    def find_name(self, token: ExpressionToken) -> str:
        """The number that a name means; `ExpressionError` when there is none."""

    @abstractmethod
    def find_reference(self, token: ExpressionToken) -> str:
        """The reference that a name in the limit means; `ExpressionError` when there is none."""

    def severities(self, token: ExpressionToken) -> Collection[str]:
        """The severities of findings that `no` may name; none where `no` is a name as any other."""
        return ()

    def scale(self, name: str) -> float:
        """What 100 % of a number is."""
        return 1.0

    def default_window(self, name: str) -> Window:
        """The window of a number where none is written; `Window()` where windows have no meaning."""
        return Window()


def simplify_name(name: str) -> str:
    """A name without case and underscores, by which names are compared."""
    return name.replace("_", "").lower()


def parse_expression(text: str, vocabulary: ExpressionVocabulary) -> ThresholdExpression:
    """Read an expression; `ExpressionError` says at which column it is wrong, and what was wanted there."""
    return _Parser(text, vocabulary).parse()


class _Parser:
    """The tokens of an expression, taken one after another."""

    def __init__(self, text: str, vocabulary: ExpressionVocabulary) -> None:
        self._tokens = [*_split(text), ExpressionToken("end", "", len(text.rstrip()) + 1, text)]
        self._vocabulary = vocabulary

    def parse(self) -> ThresholdExpression:
        first = self._tokens[0]
        severities = self._vocabulary.severities(first) if first.text == "no" else ()
        return self._count(severities) if severities else self._comparison()

    def _count(self, severities: Collection[str]) -> ThresholdExpression:
        """`no serious findings`: their count is at most 0."""
        self._take("name", "`no`")
        severity = self._take("name", "a severity", severities)
        self._take("name", "`findings`", {"findings"})
        self._take("end", "nothing more")
        return ThresholdExpression(f"findings.{severity.text}", "<=", None, 0.0)

    def _comparison(self) -> ThresholdExpression:
        name = self._vocabulary.find_name(self._take("name", self._vocabulary.name_wanted))
        sign: Sign = self._take("sign", "one of > >= < <=", SIGNS).text  # type: ignore[assignment]  # one of the four
        scale = self._vocabulary.scale(name)
        reference, margin, more = None, 0.0, []
        if self._has("name"):
            reference = self._vocabulary.find_reference(self._tokens.pop(0))
            if self._has("sign"):
                margin = self._number(scale, signs=("+", "-"))
            else:
                more = ["+", "-"]
        elif self._has("number") or self._has("sign", "-"):
            margin = self._number(scale, signs=("-",))
        else:
            raise self._error(self._vocabulary.limit_wanted)
        window = self._vocabulary.default_window(name)
        if any(window) and not self._has("end"):
            window, more = self._window(more), []
        self._take("end", _any_of(more))
        return ThresholdExpression(name, sign, reference, margin, window)

    def _number(self, scale: float, signs: Collection[str]) -> float:
        """A number, perhaps after a sign; so many per cent are that part of the scale."""
        sign = self._take("sign", "+ or -", signs).text if self._has("sign") else "+"
        number = float(self._take("number", "a number").text)
        if self._has("percent"):
            self._tokens.pop(0)
            number = round(number / 100 * scale, 9)
        return number if sign == "+" else -number

    def _window(self, more: list[str]) -> Window:
        kind = self._take("name", _any_of([*more, "`over` a time", "`on` so many events"]), {"over", "on"})
        number = self._take("number", "a number")
        if kind.text == "on":
            self._take("name", "labels, ratings, requests or answers", EVENT_NAMES)
            if not number.text.isdigit() or not 0 < int(number.text) <= MAX_EVENTS:
                raise number.error(f"expected a whole number from 1 to {MAX_EVENTS:,}, got {number.text!r}")
            return Window(events=int(number.text))
        unit = self._take("name", "s, m, h or d", TIME_UNITS)
        seconds = float(number.text) * TIME_UNITS[unit.text]
        if not 1 <= seconds <= MAX_SECONDS or seconds != int(seconds):
            raise number.error(f"expected whole seconds, at most 31 days, got {number.text}{unit.text}")
        return Window(seconds=int(seconds))

    def _has(self, kind: str, *texts: str) -> bool:
        """Whether the next token is of this kind, and one of these texts when any are named."""
        return self._tokens[0].kind == kind and (not texts or self._tokens[0].text in texts)

    def _take(self, kind: str, expected: str, among: Collection[str] = ()) -> ExpressionToken:
        """The next token, which must be of this kind, and one of these texts when any are named."""
        if not self._has(kind, *among):
            raise self._error(expected)
        return self._tokens.pop(0)

    def _error(self, expected: str) -> ExpressionError:
        token = self._tokens[0]
        return token.error(f"expected {expected}, got {token.text!r}" if token.text else f"expected {expected}")


def _any_of(more: list[str]) -> str:
    return ", ".join([*more, "or nothing more"]) if more else "nothing more"


def _split(text: str) -> Iterator[ExpressionToken]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            column = end - len(text[position:end].lstrip())
            raise ExpressionToken("", text[column], column + 1, text).error(
                f"{text[column]!r} has no meaning in a rule"
            )
        kind = str(match.lastgroup)
        yield ExpressionToken(kind, match[kind], match.start(kind) + 1, text)
        position = match.end()


def parse_duration(value: Any) -> Any:
    """Seconds from how people write a time: `10m`, `2h`, `90s`, `1d`, or a number of seconds."""
    if not isinstance(value, str):
        return value
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"expected a time such as 30s, 10m, 2h or 1d, got {value!r}")
    return float(match[1]) * TIME_UNITS[match[2]]


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=MAX_SECONDS)]
"""A time, written `10m`, `2h`, `90s` or `1d`, or as a number of seconds."""


def format_duration(seconds: float) -> str:
    """A time as Prometheus writes it, in the largest unit that is whole: `90m`, `2h`."""
    whole = round(seconds)
    for unit, size in sorted(TIME_UNITS.items(), key=lambda entry: -entry[1]):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return "0s"
