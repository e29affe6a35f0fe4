"""Which requests are meant, as a small language:

    condition = some ("or" some)*        some = one ("and" one)*        one = "not" one | "(" condition ")" | test
    test      = name ("=" | "!=" | "<" | "<=" | ">" | ">=") value | name ["not"] "in" "(" value ("," value)* ")"
              | name "contains" text | name "is" ["not"] "missing"

`rating < 0`, `label is not missing and model = "support@prod"`, `latency_s > 2 or finish != "stop"`,
`meta.language in ("de", "nl")`. A name is a column of the traces, what people said (`rating`, `label`, `correction`,
`comment`), or `meta.NAME`. A comparison with something that is missing does not hold, and neither does its opposite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from luthier.core import errors
from luthier.core.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

_TEXT, _NUMBER, _YES, _MOMENT = "a quoted string", "a number", "true or false", 'a moment such as "2026-11-01"'
SAID = {"rating": _NUMBER, "label": _TEXT, "correction": _TEXT, "comment": _TEXT}
NAMES = {
    **dict.fromkeys(("id", "asked", "model", "release", "arm", "finish", "error", "user", "key", "text"), _TEXT),
    **dict.fromkeys(
        ("status", "prompt_tokens", "cached_tokens", "completion_tokens", "latency_s", "first_token_s"), _NUMBER
    ),
    "at": _MOMENT,
    "consent": _YES,
    **SAID,
}
"""Every name, and what it is compared with."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<number>-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?\.\d+)
        |(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>[<>]=?|!=|==?|[(),]))""",
    re.VERBOSE,
)
_SIGNS = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_DEEPEST = 50


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class Where:
    """A condition that was read and found right; `InputError` says at which column it is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = [*_tokens(text), _Token("end", "", len(text) + 1)]
        self._deep = 0
        self._tree = self._any()
        if self._tokens[0].kind != "end":
            self._wrong("expected `and`, `or` or nothing more")

    def of(self, opinions: pl.DataFrame) -> pl.Expr:
        """The condition over the columns of traces, given what was said of them (`read.summed`)."""
        return _expression(self._tree, opinions)

    def _any(self) -> tuple[Any, ...]:
        found = self._all()
        while self._word("or"):
            found = ("or", found, self._all())
        return found

    def _all(self) -> tuple[Any, ...]:
        found = self._one()
        while self._word("and"):
            found = ("and", found, self._one())
        return found

    def _one(self) -> tuple[Any, ...]:
        self._deep += 1
        if self._deep > _DEEPEST:
            self._wrong(f"more than {_DEEPEST} conditions")
        if self._word("not"):
            return ("not", self._one())
        if self._sign("("):
            found = self._any()
            if not self._sign(")"):
                self._wrong("expected `)`")
            return found
        return self._test()

    def _test(self) -> tuple[Any, ...]:
        name, wanted = self._name()
        if self._word("is"):
            is_not = self._word("not")
            if not (self._word("missing") or self._word("null")):
                self._wrong("expected `missing`")
            return ("not", ("missing", name)) if is_not else ("missing", name)
        if self._word("contains"):
            if wanted != _TEXT:
                self._wrong(f"`contains` looks into texts, and {name} is compared with {wanted}")
            return ("contains", name, self._value(_TEXT))
        is_not = self._word("not")
        if self._word("in"):
            return ("not", self._among(name, wanted)) if is_not else self._among(name, wanted)
        token = self._tokens[0]
        if is_not or token.text not in _SIGNS:
            self._wrong("expected one of = != < <= > >= in contains is")
        self._tokens.pop(0)
        return (_SIGNS[token.text], name, self._value(wanted))

    def _among(self, name: str, wanted: str) -> tuple[Any, ...]:
        if not self._sign("("):
            self._wrong("expected `(`")
        values = [self._value(wanted)]
        while self._sign(","):
            values.append(self._value(wanted))
        if not self._sign(")"):
            self._wrong("expected `,` or `)`")
        return ("in", name, values)

    def _name(self) -> tuple[str, str]:
        token = self._tokens[0]
        if token.kind != "name":
            self._wrong("expected a name, such as rating")
        if token.text.startswith("meta.") and len(token.text) > len("meta."):
            wanted = _TEXT
        elif token.text in NAMES:
            wanted = NAMES[token.text]
        else:
            self._wrong(f"{token.text!r} is unknown; {did_you_mean(token.text, NAMES)}")
        self._tokens.pop(0)
        return token.text, wanted

    def _value(self, wanted: str) -> Any:
        token = self._tokens[0]
        made = _value(token, wanted)
        if made is None:
            self._wrong(f"expected {wanted}")
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
    before, _, remedy = what.partition("; ")
    return InputError(f"{text!r}, column {column}: {before}", where=errors.Where(field="where"), remedy=remedy)


def _tokens(text: str) -> Iterable[_Token]:
    place = 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        if found is None:
            column = place + len(text[place:]) - len(text[place:].lstrip())
            raise _error(text, column + 1, f"{text[column]!r} has no meaning in a condition")
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind) + 1)
        place = found.end()


def _value(token: _Token, wanted: str) -> Any:
    """What a token says, as what is wanted; None when it is something else."""
    if wanted == _NUMBER:
        return float(token.text) if token.kind == "number" else None
    if wanted == _YES:
        return {"true": True, "false": False}.get(token.text.lower()) if token.kind == "name" else None
    if token.kind != "text":
        return None
    if wanted == _TEXT:
        return token.text[1:-1]
    try:
        found = datetime.fromisoformat(token.text[1:-1])
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _expression(tree: tuple[Any, ...], opinions: pl.DataFrame) -> pl.Expr:
    import polars as pl

    head, *rest = tree
    if head in ("and", "or"):
        left, right = (_expression(one, opinions) for one in rest)
        return left & right if head == "and" else left | right
    if head == "not":
        return ~_expression(rest[0], opinions)
    column = _column(rest[0], opinions)
    if head == "missing":
        return column.is_null() | (column == "") if NAMES.get(rest[0], _TEXT) == _TEXT else column.is_null()
    if head == "in":
        return pl.any_horizontal(column == value for value in rest[1])
    if head == "contains":
        return column.str.contains(rest[1], literal=True)
    found: pl.Expr = getattr(column, head)(rest[1])
    return found


def _column(name: str, opinions: pl.DataFrame) -> pl.Expr:
    import polars as pl

    if name in SAID:
        kind = opinions.schema[name]
        return pl.col("id").replace_strict(opinions["id"], opinions[name], default=None, return_dtype=kind)
    if name.startswith("meta."):
        return pl.col("meta").str.json_path_match(f"$['{name.removeprefix('meta.')}']")
    return pl.col(name)
