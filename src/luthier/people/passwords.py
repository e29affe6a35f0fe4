"""Passwords: what one must be like, and argon2id digests of them (RFC 9106, the low-memory parameters)."""

from __future__ import annotations

from functools import cache
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from luthier.core.errors import InputError, SourceLocation

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH, _MAX_BYTES = 10, 1024
_TURNS = BoundedSemaphore(2)
"""A digest takes 64 MiB: no more than two are computed at once."""


def check_password(password: str, *names: str) -> None:
    """`InputError` for a password that is too short, too long, or says who it is of."""
    where = SourceLocation(field="password")
    if len(password) < MIN_LENGTH:
        hint = "several words that you can remember make a good one"
        raise InputError(f"a password has at least {MIN_LENGTH} characters", where=where, hint=hint)
    if len(password.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise InputError(f"a password has at most {_MAX_BYTES:,} bytes", where=where, hint="take a shorter one")
    if password.casefold() in {name.casefold() for name in names} or len(set(password)) < 4:
        raise InputError("this password is guessed at once", where=where, hint="take another one")


def hash_password(password: str) -> str:
    """The digest to keep, with its salt and parameters."""
    with _TURNS:
        return _hasher().hash(password.encode("utf-8", "surrogatepass"))


def verify_password(digest: str | None, password: str) -> bool:
    """Whether a password is the one that a digest is of. Without a digest the answer is no, after the same work."""
    from argon2.exceptions import InvalidHashError, VerificationError

    given = password.encode("utf-8", "surrogatepass")[: _MAX_BYTES + 1]
    try:
        with _TURNS:
            return _hasher().verify(digest or _dummy_hash(), given) and digest is not None
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(digest: str) -> bool:
    """Whether a digest was made with other parameters than those of now."""
    return _hasher().check_needs_rehash(digest)


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher
    from argon2.profiles import RFC_9106_LOW_MEMORY

    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


@cache
def _dummy_hash() -> str:
    """What the password of a name without an account is compared with."""
    return _hasher().hash("no password is this one")
