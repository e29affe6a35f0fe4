"""JSON lines: one object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, Where
from luthier.data.formats.lines import BadLine, head, lines
from luthier.data.row import Broken, Record


def read(path: Path, name: str, *, encoding: str = "auto") -> Iterator[Record | Broken]:
    """Objects of a JSONL file; a line that is not one is yielded as broken."""
    first = head(path, name, encoding)
    if first.text.lstrip("\ufeff \t\r\n").startswith("["):
        remedy = "write one object a line: `jq -c '.[]' FILE > FILE.jsonl`"
        raise DataError(
            "holds one JSON array; one object a line is wanted", where=Where(file=name, line=1), remedy=remedy
        )
    for number, line in enumerate(lines(path, name, first.encoding), start=1):
        if isinstance(line, BadLine):
            yield Broken(name, number, line.problem, remedy=line.remedy)
        elif not line.isspace():
            yield _record(line, name, number)


def _record(line: str, name: str, number: int) -> Record | Broken:
    try:
        value = json.loads(line, parse_constant=_refuse, parse_float=_finite)
        if "\\u" in line:
            line.encode()
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written as UTF-8
    except json.JSONDecodeError as error:
        return Broken(name, number, f"is not JSON: {error.msg} at column {error.colno}")
    except UnicodeEncodeError:
        return Broken(name, number, "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text")
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        return Broken(name, number, f"is not JSON that can be used: {what}")
    if not isinstance(value, dict):
        return Broken(name, number, f"wanted a JSON object, got {_kind(value)}")
    return Record(value, name, number)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
