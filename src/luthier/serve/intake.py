"""Reading a request's body: as JSON and nothing else, of bounded size and depth, into what the API knows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from luthier.serve.bodies import Body
from luthier.serve.refusal import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_DEPTH = 64
"""How deep lists and objects of a body may lie in one another."""
_SURROGATE = re.compile("[\ud800-\udfff]")
Kind = TypeVar("Kind", bound=Body)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings."""
    if (other := other_than_json(request)) is not None:
        raise other
    value = read_json(await request.body())
    if not isinstance(value, dict):
        raise Refusal("expected a JSON object")
    return value


def other_than_json(request: Request) -> Refusal | None:
    """What is said of a body that does not call itself JSON."""
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if told == "application/json":
        return None
    return Refusal(f"expected a body of type application/json, got {told[:80] or 'none'!r}", status=415)


def validated(value: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """A body of its kind; `Refusal` with the parameter that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise first_wrong(error.errors(include_url=False, include_input=False)) from error


def read_json(body: bytes) -> Any:
    """JSON as the standard has it: no NaN, no half characters, nothing deeper than `MOST_DEPTH`."""
    try:
        value = json.loads(body, parse_constant=_no_number)
    except RecursionError as error:
        raise Refusal(f"the JSON is deeper than {MOST_DEPTH}") from error
    except ValueError as error:
        raise Refusal(f"the body is no JSON: {str(error)[:200]}") from error
    _check(value)
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check(value: Any) -> None:
    """Level by level, so that depth costs no stack."""
    level: Sequence[Any] = [value]
    for _ in range(MOST_DEPTH):
        inside: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inside += one
                inside += one.values()
            elif isinstance(one, list):
                inside += one
            elif isinstance(one, str) and not one.isascii() and _SURROGATE.search(one):
                raise Refusal("a text holds half of a character (a lone surrogate)")
        if not inside:
            return
        level = inside
    raise Refusal(f"the JSON is deeper than {MOST_DEPTH}")


def first_wrong(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The first thing that pydantic found wrong, by its name: official clients show nothing but the message.

    Where a value may be of several kinds, what is said of the one that it is lies deepest.
    """
    found = max(errors, key=lambda one: sum(map(_is_name, one["loc"])))
    if found["type"] == "model_attributes_type":
        return Refusal("expected a JSON object")
    if found["type"] == "json_invalid":
        return Refusal(f"the body is no JSON: {found.get('ctx', {}).get('error', found['msg'])}")
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found["loc"] if _is_name(step))
    place = place.lstrip(".")
    said = str(found["msg"]).removeprefix("Value error, ")[:300]
    return Refusal(f"{place}: {said[:1].lower()}{said[1:]}" if place else said, param=place or None)


def _is_name(step: int | str) -> bool:
    """Whether a step of pydantic's path stands in the body, and is not one way to read it."""
    return isinstance(step, int) or (re.fullmatch(r"[a-z_]+", step) is not None and step not in ("str", "int", "float"))
