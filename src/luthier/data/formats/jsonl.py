"""JSON lines: one object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from luthier.core.errors import DataError, Where
from luthier.core.not_json import not_json
from luthier.data.formats.file import File
from luthier.data.formats.lines import BadLine, head, lines
from luthier.data.row import Broken, Record


def read(
    file: File, *, encoding: str = "auto", say: Callable[[str], None] = lambda text: None
) -> Iterator[Record | Broken]:
    """Objects of a JSONL file; a line that is not one is yielded as broken."""
    first = head(file, encoding)
    if first.text.lstrip("\ufeff \t\r\n").startswith("["):
        place, remedy = Where(file=file.name, line=1), "use `kind: json`"
        raise DataError("holds one JSON array; one object a line is wanted", where=place, remedy=remedy)
    if first.note:
        say(first.note)
    for number, line in enumerate(lines(file, first), start=1):
        if isinstance(line, BadLine):
            yield Broken(file.name, number, line.problem, remedy=line.remedy)
        elif not line.isspace():
            yield record(line, file.name, number)


def record(text: str, name: str, number: int) -> Record | Broken:
    """The row that is written as one JSON object."""
    try:
        value = load(text)
    except ValueError as error:
        return Broken(name, number, str(error))
    if not isinstance(value, dict):
        return Broken(name, number, f"expected a JSON object, got {kind_of(value)}")
    return Record(value, name, number)


def load(text: str) -> Any:
    """A JSON value that can be written again as UTF-8; `ValueError` says in one sentence what is wrong."""
    try:
        value = DECODER.decode(text.lstrip("\ufeff"))
        refuse_half_surrogates(text, value)
    except json.JSONDecodeError as error:
        raise ValueError(not_json(error, column=True)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(unusable(error)) from error
    return value


def unusable(error: Exception) -> str:
    """What is wrong with text that is JSON, and cannot be used."""
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
    return f"is not JSON that can be used: {what}"


def refuse_half_surrogates(text: str, value: Any) -> None:
    """Half a surrogate pair cannot be written as UTF-8: `UnicodeEncodeError`."""
    if "\\u" in text:
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    kinds = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
