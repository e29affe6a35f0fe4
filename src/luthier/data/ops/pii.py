"""Personal data found by patterns, and taken out of texts and columns."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import RecipeError, Unwritable, Where
from luthier.core.files import writing
from luthier.data.operator import Column, Drop, Edit, Outcome, Reads, RowOperator, Secret, Suggestion
from luthier.data.pii import KINDS, Found, PiiKind, find
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.profile import Profile

Action = Literal["redact", "mask", "hash", "drop", "flag"]
KEY_VARIABLE = "LUTHIER_PII_KEY"
_KEPT_BY_MASK = 4


class Pii(RowOperator):
    """Find e-mail addresses, phone and card numbers, IBANs, social security numbers, IP and MAC addresses, secrets.

    Events never hold what was found: a keyed hash stands in its place, so that the same value can be followed without
    being known. The key comes from an environment variable; without it, from a file of yours that is made once.
    """

    kind: Literal["pii"] = "pii"
    reads: ClassVar[tuple[Reads, ...]] = ("system", "prompt", "answer", "meta", "group")
    suggested_at: ClassVar[int] = 20
    writes: ClassVar[dict[str, Column]] = dict.fromkeys(KINDS, "count")

    action: Action = "redact"
    """`redact` puts the kind in its place (`[EMAIL]`), `mask` leaves the last four characters of numbers, `hash` puts a
    tag that is the same wherever the value is the same, `drop` leaves the row out, `flag` only counts."""
    actions: dict[PiiKind, Action] = Field(default_factory=dict)
    """Another action for some kinds."""
    kinds: tuple[PiiKind, ...] = KINDS
    """What is looked for."""
    columns: bool = True
    """Look into the columns that stay in `meta`, too."""
    key_env: str = KEY_VARIABLE
    """The environment variable with the secret key for hashes; set the same on all machines to get the same tags."""

    def fingerprint(self, base: Path) -> str | None:
        """A digest of the key, since it decides the tags."""
        return hashlib.sha256(b"luthier.pii:" + self._keeper.key).hexdigest()[:16]

    @cached_property
    def _keeper(self) -> _Keeper:
        return _Keeper.of(self.key_env)

    def apply(self, rows: Sequence[Row]) -> Outcome:
        """Find, count, and say what becomes of it."""
        counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
        outcome = Outcome(attributes=dict(counts))
        for place, row in enumerate(rows):
            seen: Counter[PiiKind] = Counter()
            for field, text in self._texts(row):
                for found in find(text, self.kinds):
                    seen[found.kind] += 1
                    if (edit := self._edit(field, found)) is not None:
                        outcome.edits.setdefault(place, []).append(edit)
            for kind in KINDS:
                counts[kind].append(seen[kind])
            if unwanted := [kind for kind in KINDS if seen[kind] and self._action(kind) == "drop"]:
                outcome.drops[place] = Drop(f"holds {unwanted[0]}")
        return outcome

    def _texts(self, row: Row) -> Iterator[tuple[str, str]]:
        yield from row.texts(("system", "user", "assistant", "tool"))
        if row.group:
            yield "group", row.group
        if self.columns:
            for name, value in row.meta.items():
                if isinstance(value, str) and value:
                    yield f"meta.{name}", value

    def _action(self, kind: PiiKind) -> Action:
        return self.actions.get(kind, self.action)

    def _edit(self, field: str, found: Found) -> Edit | None:
        """What takes the place of one find; a group keeps rows together, so there it is always a tag."""
        action = self._action(found.kind)
        if action in ("flag", "drop"):
            return None
        tag = self._tag(found)
        if action == "hash" or field == "group":
            after = tag
        else:
            after = f"[{found.kind.upper()}]" if action == "redact" else _masked(found)
        return Edit(field, found.start, found.end, found.text, after, found.kind, hidden=tag)

    def _tag(self, found: Found) -> str:
        return f"[{found.kind.upper()}:{self._keeper.tag(_canonical(found))}]"

    def secrets(self, text: str) -> list[Secret]:
        """Everything found in a text, with its tag."""
        return [Secret(found.start, found.end, self._tag(found)) for found in find(text, self.kinds)]

    @classmethod
    def trial(cls) -> Pii:
        """Redaction of everything, so that an example can be shown."""
        return cls()

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Worth it when the sample holds any personal data."""
        if not profile.pii:
            return None
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(profile.pii.items(), key=lambda one: -one[1]))
        return Suggestion({"action": "redact"}, f"personal data in {profile.looked_at} rows: {shown}")


def _canonical(found: Found) -> str:
    """The value without its dress, so that `0170 / 123` and `0170123` have one tag."""
    if found.kind in ("email", "mac"):
        return found.text.casefold()
    if found.kind in ("phone", "card", "iban", "ssn"):
        return re.sub(r"[^0-9A-Za-z+]", "", found.text).upper()
    return found.text


def _masked(found: Found) -> str:
    """Stars for all letters and digits, but the last four of numbers."""
    kept = _KEPT_BY_MASK if found.kind in ("phone", "card", "iban", "ssn") else 0
    places = [index for index, char in enumerate(found.text) if char.isalnum()]
    starred = set(places[: len(places) - kept])
    return "".join("*" if index in starred else char for index, char in enumerate(found.text))


@dataclass(frozen=True)
class _Keeper:
    """Holds the key and makes tags: letters only, so that no tag looks like a number."""

    key: bytes

    @classmethod
    def of(cls, variable: str) -> _Keeper:
        value = os.environ.get(variable)
        if value is None and variable != KEY_VARIABLE:
            remedy = f"export {variable}=… (a long random text), or leave `key_env` out"
            raise RecipeError(
                f"the environment variable {variable} is not set", where=Where(field="key_env"), remedy=remedy
            )
        return cls(value.encode() if value else _own_key())

    def tag(self, value: str) -> str:
        """Ten letters that stand for a value."""
        digest = hmac.new(self.key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return "".join(chr(ord("a") + byte % 16) for byte in digest[:10])


def _own_key() -> bytes:
    """This user's key, made at the first call and readable by nobody else."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "luthier"
    path = folder / "pii.key"
    try:
        with writing(path):
            if not path.exists():
                _make_key(path)
            return path.read_bytes()
    except Unwritable as error:
        remedy = f"set the environment variable {KEY_VARIABLE} to a long random text; then no file is needed"
        raise Unwritable(error.message, where=error.where, remedy=remedy) from error


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(32).encode())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)  # whoever is first decides; the other takes what is there
    finally:
        aside.unlink()
