"""Paths as people write them in recipes: relative to the recipe, `~`, or beginning with `$NAME` from the environment.

Only a field marked with `Environment()` may hold `$NAME`; the value in the recipe stays as it was written, so that an
artifact never holds what the environment said. What decides an artifact is the contents that are read, not their place.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from luthier.core.errors import InputError, Where

_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


@dataclass(frozen=True)
class Environment:
    """Marks a field in which `$NAME` stands for an environment variable."""


PathText = Annotated[str, Field(min_length=1), Environment()]
"""A path; a relative one starts at the recipe's folder, and `~` and `$NAME` are understood."""


def locate(path: str, base: Path) -> Path:
    """Where a written path lies; `InputError` names a variable that is not set."""
    return base / Path(filled(path)).expanduser()


def filled(text: str) -> str:
    """A text with each `$NAME` replaced by what the environment says; `InputError` names a variable that is not set."""
    return _VARIABLE.sub(_value, text)


def variables(text: str) -> list[str]:
    """The names of the variables that a text asks for."""
    return [found[1] or found[2] for found in _VARIABLE.finditer(text)]


def is_variable(text: str) -> bool:
    """Whether a text is nothing but `$NAME`."""
    return _VARIABLE.fullmatch(text) is not None


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    value = os.environ.get(name)
    if value is None:
        message = f"the environment has no variable {name}"
        raise InputError(message, where=Where(field=found[0]), remedy=f"export {name}=… first, or write the path out")
    return value


def cache_folder() -> Path:
    """Where this user's fetched packages and converted base models are kept: `LUTHIER_CACHE`, or `~/.cache/luthier`."""
    if named := os.environ.get("LUTHIER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"
