"""The errors that Luthier raises: each names the location in the input and what to do.

    LuthierError
    ├── InputError               the user's input is wrong                     exit 2
    │   ├── RecipeError          a recipe: YAML, settings, references
    │   ├── DataError            a file or row of data
    │   ├── ModelError           a model that is not there or cannot be used
    │   ├── UnknownName          a step, example, kind or artifact asked for by name
    │   ├── MissingExtra         an optional library that is not installed
    │   └── SystemResourceError  disk full, store read-only
    │       └── OutOfMemory      memory exhausted
    ├── CorruptArtifact          a file that differs from what was made        exit 2
    └── Interrupted              Ctrl-C, SIGTERM, or the terminal closed       exit 130

Any other exception that escapes is a bug in Luthier: exit 4, with the details in a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, ClassVar

FAULT_EXIT_CODE = 4
"""The exit code of a fault of Luthier's own."""
_BEGINNING, _MOST_BEGUN = 3, 4
"""So many letters are the beginning of a name, and so many names that begin with them are told."""
_TEXT = frozenset(" ,;\t|")
"""What is in texts, such as a header that was not cut, and not in names that somebody begins to write."""


@dataclass(frozen=True, kw_only=True)
class SourceLocation:
    """The place of an error: a file, a line in it (from 1), a field; each when known."""

    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        text = self.file or ""
        if self.line is not None:
            text += f":{self.line}"
        if self.field:
            text += f" ({self.field})" if text else self.field
        return text


class LuthierError(Exception):
    """An error with a place and a remedy: what was wanted, what came, where, and what to do."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, where: SourceLocation | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where or SourceLocation()
        self.hint = hint

    def __str__(self) -> str:
        location = str(self.where)
        text = f"{location}: {self.message}" if location else self.message
        return f"{text}\n  → {self.hint}" if self.hint else text

    def as_json(self) -> dict[str, Any]:
        """The documented `{"error": …}` shape."""
        where = {"file": self.where.file, "line": self.where.line, "field": self.where.field}
        return {"error": {"kind": type(self).__name__, "message": self.message, "where": where, "hint": self.hint}}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> LuthierError:
        """The error that another process wrote so; one of a class that is not known here is an `InputError`."""
        error = value["error"]
        kinds, waiting = dict[str, type[LuthierError]](), [LuthierError]
        while waiting:
            kind = waiting.pop()
            kinds[kind.__name__] = kind
            waiting += kind.__subclasses__()
        where = SourceLocation(**error["where"])
        return kinds.get(error["kind"], InputError)(error["message"], where=where, hint=error["hint"])


class InputError(LuthierError):
    """The user's input is wrong."""


class RecipeError(InputError):
    """A recipe that cannot be read, or whose settings or references are wrong."""


class DataError(InputError):
    """A file or a row of data that cannot be used."""


class ModelError(InputError):
    """A model that is not there, or that cannot be used for what was asked."""


class UnknownName(InputError):
    """Something was asked for by a name that nothing bears."""


class MissingExtra(InputError):
    """An optional library is not installed."""


class SystemResourceError(InputError):
    """The machine cannot write or allocate: disk full, store read-only, or out of memory."""


class OutOfMemory(SystemResourceError):
    """The machine has no memory left for this work; less of it may fit."""


class CorruptArtifact(LuthierError):
    """A file of an artifact differs from what was made."""


class Interrupted(LuthierError):
    """The run was stopped by the user, or by who listens to its numbers; what was finished is kept."""

    exit_code: ClassVar[int] = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy: the known names that it begins, or the nearest one, or those that begin nearly so, else all of them (at
    most twelve)."""
    names = sorted(known)
    short = [entry for entry in names if not set(entry) & _TEXT] if len(name) >= _BEGINNING else []
    whole = [entry for entry in short if entry.startswith(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    nearly = difflib.get_close_matches(name, {entry[: len(name)] for entry in short}, n=1, cutoff=0.8)
    for found in (whole, near, [entry for entry in short if nearly and entry.startswith(nearly[0])]):
        if 0 < len(found) <= _MOST_BEGUN:
            return f"did you mean {' or '.join(map(repr, found))}?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}" if names else "there is none yet"


def describe_json_error(error: JSONDecodeError, *, column: bool = False) -> str:
    """`Unterminated string`, or `Unterminated string at column 22`: Python's own words, some of which end in `at`."""
    message = error.msg.removesuffix(" at").removesuffix(" starting")
    return f"is not JSON: {message} at column {error.colno}" if column else f"is not JSON: {message}"
