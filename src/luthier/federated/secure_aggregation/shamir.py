"""Shamir's secret sharing (1979) over the prime field of 2^521 - 1: a threshold of shares reconstructs a secret, fewer
reveal nothing.

No common library shares secrets of 32 bytes among hundreds of holders: PyCryptodome's supports 16.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from luthier.core.errors import InputError

PRIME = (1 << 521) - 1
SHARE_BYTES = 66
SECRET_BYTES = 32
MOST_HOLDERS = 1 << 20


def split_secret(secret: bytes, holders: Collection[int], threshold: int) -> dict[int, bytes]:
    """A share of a secret (32 bytes) for each holder, by its number (1 or more): values of a polynomial of degree
    `threshold - 1`, whose other coefficients come from the system's generator."""
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(holders):
        raise ValueError("a secret has 32 bytes, and no more shares are needed than there are")
    if any(not 1 <= holder <= MOST_HOLDERS for holder in holders):
        raise ValueError("holders are numbered from 1: the value at 0 is the secret")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {holder: _evaluate(coefficients, holder).to_bytes(SHARE_BYTES, "big") for holder in holders}


def join_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of `threshold` shares by their holders' numbers; `InputError` where there are fewer, or they belong to
    no secret of 32 bytes."""
    if len(shares) < threshold:
        raise InputError(f"{len(shares)} shares of a secret came, and {threshold} are needed")
    chosen = dict(sorted(shares.items())[:threshold])
    secret = 0
    for own, share in chosen.items():
        above = below = 1
        for other in chosen:
            if other != own:
                above = above * other % PRIME
                below = below * (other - own) % PRIME
        secret = (secret + int.from_bytes(share, "big") * above * pow(below, -1, PRIME)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise InputError("the shares of a secret do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


def _evaluate(coefficients: list[int], at: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * at + coefficient) % PRIME
    return total
