"""Filters of traces, as a small language:

    condition = some ("or" some)*        some = one ("and" one)*        one = "not" one | "(" condition ")" | test
    test      = name ("=" | "!=" | "<" | "<=" | ">" | ">=") value | name ["not"] "in" "(" value ("," value)* ")"
              | name "contains" text | name "is" ["not"] "missing"

`rating < 0`, `label is not missing and model = "support@prod"`, `latency_s > 2 or finish_reason != "stop"`,
`meta.language in ("de", "nl")`, `types = "wrong tone"`. A name is a column of the traces, what people said (`rating`,
`label`, `correction`, `comment`, `types` of failure, any of which may be meant), `confidence` (the probability of the
likeliest class), or `meta.NAME`. A comparison with something that is missing does not hold, and neither does its
opposite.

It is not polars' SQL: `polars.sql_expr` opens the files and addresses that a text names (a subquery with
`read_parquet('…')`) while it reads the text, before anybody can refuse its expression, and its errors say neither what
was expected nor where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from luthier.core import errors
from luthier.core.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

_TEXT, _NUMBER, _YES, _MOMENT = "a quoted string", "a number", "true or false", 'a moment such as "2026-11-01"'
SAID = {"rating": _NUMBER, "label": _TEXT, "correction": _TEXT, "comment": _TEXT, "types": _TEXT}
NAMES = {
    **dict.fromkeys(("id", "operation", "model", "release", "variant", "finish_reason"), _TEXT),
    **dict.fromkeys(("error", "user", "key", "text"), _TEXT),
    **dict.fromkeys(
        ("status", "prompt_tokens", "cached_tokens", "completion_tokens", "latency_s", "first_token_s"), _NUMBER
    ),
    "timestamp": _MOMENT,
    "confidence": _NUMBER,
    "consent": _YES,
    **SAID,
}
"""Every name, and what it is compared with."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<number>-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?\.\d+)
        |(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>[<>]=?|!=|==?|[(),]))""",
    re.VERBOSE,
)
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {"=": eq, "==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_MAX_TESTS = 50
_Condition = Callable[["pl.DataFrame"], "pl.Expr"]
"""What people said, as columns, to an expression."""


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class TraceFilter:
    """A condition that was read and found right; `InputError` says at which column it is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = [*_tokens(text), _Token("end", "", len(text) + 1)]
        self._tests = 0
        self._condition = self._any()
        if self._tokens[0].kind != "end":
            self._wrong("expected `and`, `or` or nothing more")

    def expression(self, opinions: pl.DataFrame) -> pl.Expr:
        """The condition over the columns of traces, given what was said of them (`read.summed`)."""
        return self._condition(opinions)

    def _any(self) -> _Condition:
        found = self._all()
        while self._word("or"):
            found = _joined(or_, found, self._all())
        return found

    def _all(self) -> _Condition:
        found = self._one()
        while self._word("and"):
            found = _joined(and_, found, self._one())
        return found

    def _one(self) -> _Condition:
        self._tests += 1
        if self._tests > _MAX_TESTS:
            self._wrong(f"more than {_MAX_TESTS} conditions")
        if self._word("not"):
            return _opposite(self._one())
        if self._sign("("):
            found = self._any()
            if not self._sign(")"):
                self._wrong("expected `)`")
            return found
        return self._test()

    def _test(self) -> _Condition:
        name, expected = self._name()
        if self._word("is"):
            is_not = self._word("not")
            if not (self._word("missing") or self._word("null")):
                self._wrong("expected `missing`")
            found = _on_column(name, _is_missing if expected == _TEXT else _is_null)
            return _opposite(found) if is_not else found
        if self._word("contains"):
            if expected != _TEXT:
                self._wrong(f"`contains` looks into texts, and {name} is compared with {expected}")
            text = self._value(_TEXT)
            return _on_column(name, lambda column: column.str.contains(text, literal=True))
        is_not = self._word("not")
        if self._word("in"):
            values = self._values(expected)
            found = _on_column(name, lambda column: reduce(or_, (column == value for value in values)))
            return _opposite(found) if is_not else found
        token = self._tokens[0]
        if is_not or token.text not in _SIGNS:
            self._wrong("expected one of = != < <= > >= in contains is")
        self._tokens.pop(0)
        value = self._value(expected)
        return _on_column(name, lambda column: _SIGNS[token.text](column, value))

    def _values(self, expected: str) -> list[Any]:
        if not self._sign("("):
            self._wrong("expected `(`")
        values = [self._value(expected)]
        while self._sign(","):
            values.append(self._value(expected))
        if not self._sign(")"):
            self._wrong("expected `,` or `)`")
        return values

    def _name(self) -> tuple[str, str]:
        token = self._tokens[0]
        if token.kind != "name":
            self._wrong("expected a name, such as rating")
        if token.text.startswith("meta.") and len(token.text) > len("meta."):
            expected = _TEXT
        elif token.text in NAMES:
            expected = NAMES[token.text]
        else:
            self._wrong(f"{token.text!r} is unknown; {did_you_mean(token.text, NAMES)}")
        self._tokens.pop(0)
        return token.text, expected

    def _value(self, expected: str) -> Any:
        token = self._tokens[0]
        made = _value(token, expected)
        if made is None:
            self._wrong(f"expected {expected}")
        self._tokens.pop(0)
        return made

    def _word(self, word: str) -> bool:
        return self._take("name", word)

    def _sign(self, sign: str) -> bool:
        return self._take("sign", sign)

    def _take(self, kind: str, text: str) -> bool:
        if self._tokens[0].kind == kind and self._tokens[0].text.lower() == text:
            self._tokens.pop(0)
            return True
        return False

    def _wrong(self, what: str) -> NoReturn:
        token = self._tokens[0]
        came = f", got {token.text!r}" if token.text and what.startswith("expected") else ""
        raise _error(self.text, token.column, f"{what}{came}")


def _error(text: str, column: int, what: str) -> InputError:
    before, _, hint = what.partition("; ")
    return InputError(f"{text!r}, column {column}: {before}", where=errors.SourceLocation(field="where"), hint=hint)


def _tokens(text: str) -> Iterable[_Token]:
    index = 0
    while index < len(text.rstrip()):
        match = _TOKEN.match(text, index)
        if match is None:
            column = index + len(text[index:]) - len(text[index:].lstrip())
            raise _error(text, column + 1, f"{text[column]!r} has no meaning in a condition")
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind) + 1)
        index = match.end()


def _value(token: _Token, expected: str) -> Any:
    """What a token says, as what is wanted; None when it is something else."""
    if expected == _NUMBER:
        return float(token.text) if token.kind == "number" else None
    if expected == _YES:
        return {"true": True, "false": False}.get(token.text.lower()) if token.kind == "name" else None
    if token.kind != "text":
        return None
    if expected == _TEXT:
        return token.text[1:-1]
    try:
        time = datetime.fromisoformat(token.text[1:-1])
    except ValueError:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _joined(sign: Callable[[pl.Expr, pl.Expr], pl.Expr], left: _Condition, right: _Condition) -> _Condition:
    return lambda opinions: sign(left(opinions), right(opinions))


def _opposite(condition: _Condition) -> _Condition:
    return lambda opinions: ~condition(opinions)


def _on_column(name: str, test: Callable[[pl.Expr], pl.Expr]) -> _Condition:
    return (lambda opinions: _any_type(test, opinions)) if name == "types" else lambda o: test(_column(name, o))


def _any_type(test: Callable[[pl.Expr], pl.Expr], opinions: pl.DataFrame) -> pl.Expr:
    """The requests of which one failure type passes a test; those without any have a type that is missing."""
    import polars as pl

    every = opinions.select("id", pl.col("types").list.drop_nulls()).explode("types")
    named = every.filter(pl.col("types").is_not_null())["id"].unique()
    passed = every.filter(test(pl.col("types")))["id"].unique()
    missing = pl.DataFrame({"types": [None]}, schema={"types": pl.String}).select(test(pl.col("types"))).item()
    is_named, is_passed = (pl.col("id").is_in(ids.to_list()) for ids in (named, passed))
    return pl.when(is_named).then(is_passed).otherwise(pl.lit(missing, pl.Boolean))


def _is_null(column: pl.Expr) -> pl.Expr:
    return column.is_null()


def _is_missing(column: pl.Expr) -> pl.Expr:
    return column.is_null() | (column == "")


def _likeliest(scores: str) -> float | None:
    return max(json.loads(scores).values(), default=None)


def _column(name: str, opinions: pl.DataFrame) -> pl.Expr:
    import polars as pl

    if name in SAID:
        kind = opinions.schema[name]
        return pl.col("id").replace_strict(opinions["id"], opinions[name], default=None, return_dtype=kind)
    if name == "confidence":
        return pl.col("scores").map_elements(_likeliest, return_dtype=pl.Float64)
    if name.startswith("meta."):
        return pl.col("meta").str.json_path_match(f"$['{name.removeprefix('meta.')}']")
    return pl.col(name)
