"""The secret key behind tags and pseudonyms: from the environment, or a file of the user's own that is made once."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import RecipeError, SourceLocation, SystemResourceError
from luthier.core.files import translate_write_errors

KEY_VARIABLE = "LUTHIER_PII_KEY"


_LETTERS = bytes(ord("a") + byte % 16 for byte in range(256))
"""What each byte of a digest is in a tag."""
TAG = re.compile(r"\[[A-Z_]{1,16}:[a-p]{10}\]")
"""What stands for a find that is not kept: its kind and the tag of its value."""


@dataclass(frozen=True)
class HmacKey:
    """The secret key for keyed hashes of personal data (HMAC-SHA256)."""

    key: bytes

    @classmethod
    def of(cls, variable: str = KEY_VARIABLE) -> HmacKey:
        """The key in this environment variable; without the usual one, the user's own file."""
        value = os.environ.get(variable)
        if value is None and variable != KEY_VARIABLE:
            hint = f"export {variable}=… (a long random text), or leave `key_env` out"
            raise RecipeError(
                f"the environment variable {variable} is not set", where=SourceLocation(field="key_env"), hint=hint
            )
        return cls(value.encode() if value else _own_key())

    @property
    def fingerprint(self) -> str:
        """A digest that tells keys apart and gives none away."""
        return hashlib.sha256(b"luthier.pii:" + self.key).hexdigest()[:16]

    def digest(self, value: str) -> bytes:
        """32 bytes that stand for a value."""
        return hmac.digest(self.key, value.encode("utf-8", "surrogatepass"), "sha256")

    def tag(self, value: str) -> str:
        """Ten letters that stand for a value: letters only, so that no tag looks like a number."""
        return self.digest(value)[:10].translate(_LETTERS).decode()

    def number(self, value: str, below: int) -> int:
        """A whole number from 0 up to `below` that stands for a value."""
        return int.from_bytes(self.digest(value)[:8], "big") % below


def _own_key() -> bytes:
    """This user's key, made at the first call and readable by nobody else."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "luthier"
    path = folder / "pii.key"
    try:
        with translate_write_errors(path):
            if not path.exists():
                _make_key(path)
            return path.read_bytes()
    except SystemResourceError as error:
        hint = f"set the environment variable {KEY_VARIABLE} to a long random text; then no file is needed"
        raise SystemResourceError(error.message, where=error.where, hint=hint) from error


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
