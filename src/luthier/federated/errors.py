"""Errors of refused messages, orders and files of a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from luthier.core.errors import InputError, ModelError, SourceLocation, did_you_mean

_LONGEST_SHOWN = 60


class MessageError(InputError):
    """A message that is not what was agreed: nothing of it was used, and nothing was sent for it."""

    def __init__(self, message: str, *, where: SourceLocation | None = None, hint: str = "") -> None:
        """Build the error; control characters, with which foreign text could overwrite a terminal, are replaced."""
        super().__init__(replace_control_characters(message), where=where, hint=hint)


class SiteRefusal(ModelError):
    """A site's answer that it does not do what it was asked, with its reason."""


class OrderError(InputError):
    """An order that cannot be done here; its words tell of settings and digests, and of no row."""


def replace_control_characters(text: str) -> str:
    """Return one line of printable characters from untrusted text."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def explain_settings(error: ValidationError, model: type[BaseModel]) -> tuple[str, str, str]:
    """The first thing that is wrong in a file of settings: in words, what to do, and the setting's path."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    name = path[-1] if path else ""
    if first["type"] == "extra_forbidden":
        owner: type[BaseModel] | None = model
        for part in path[:-1]:
            owner = _find_group(owner, part)
        known = owner.model_fields if owner is not None else ()
        return f"there is no setting {name!r} here", did_you_mean(name, known), ".".join(path)
    if first["type"] == "missing":
        return f"{name} is required", f"add `{name}: …`", ".".join(path)
    came = repr(first["input"])
    shown = came if len(came) <= _LONGEST_SHOWN else f"{came[:_LONGEST_SHOWN]}…"
    text = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name} {text}, got {shown}" if name else text, "", ".".join(path)


def _find_group(owner: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    """The group of settings that a setting holds; None where it holds none."""
    field = owner.model_fields.get(name) if owner is not None else None
    return next(_list_groups(field.annotation), None) if field is not None else None


def _list_groups(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _list_groups(inner)
