"""An oblivious pseudorandom function over the prime-order subgroup of edwards25519.

The client hashes an element to a point and multiplies it by a random scalar (blinding); the server multiplies that by
its key; the client removes its scalar, and hashes element and point (2HashDH; Jarecki et al. 2014, RFC 9497). The
server learns nothing, and the client learns the function's value at its own elements only. libsodium does the
arithmetic: it rejects points outside the subgroup, non-canonical encodings, and the identity.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from luthier.core.errors import MissingExtra
from luthier.federated.errors import OrderError

POINT_BYTES = 32
_POINT, _VALUE = b"luthier decontamination point 1", b"luthier decontamination value 1"
_CHUNK = 1024
"""Points that one thread multiplies at a time; libsodium runs without the interpreter's lock."""


def require_libsodium() -> None:
    """`MissingExtra` where it is not installed."""
    if find_spec("nacl") is None:
        raise MissingExtra("near copies across sites need PyNaCl", hint="pip install 'luthier[federated]'")


def draw_scalar() -> bytes:
    """A secret from the system's generator; never zero."""
    from nacl.bindings import crypto_core_ed25519_scalar_reduce

    while True:
        found: bytes = crypto_core_ed25519_scalar_reduce(os.urandom(64))
        if any(found):
            return found


def invert_scalar(scalar: bytes) -> bytes:
    """Return the scalar that removes a blinding scalar from a product."""
    from nacl.bindings import crypto_core_ed25519_scalar_invert

    found: bytes = crypto_core_ed25519_scalar_invert(scalar)
    return found


def hash_to_points(elements: Sequence[bytes]) -> list[bytes]:
    """Return a point of the subgroup for each element, with an unknown discrete logarithm: the sum of two Elligator
    maps.
    """
    from nacl.bindings import crypto_core_ed25519_add
    from nacl.bindings.crypto_core import crypto_core_ed25519_from_uniform

    def hash_one(element: bytes) -> bytes:
        digest = hashlib.sha512(_POINT + element).digest()
        one, two = (crypto_core_ed25519_from_uniform(digest[at : at + POINT_BYTES]) for at in (0, POINT_BYTES))
        found: bytes = crypto_core_ed25519_add(one, two)
        return found

    return _map_in_threads(hash_one, elements)


def multiply_points(points: Sequence[bytes], scalar: bytes) -> list[bytes]:
    """Each point times a secret; `OrderError` for one that is no point of the subgroup, or its identity."""
    from nacl.bindings import crypto_scalarmult_ed25519_noclamp
    from nacl.exceptions import CryptoError

    def multiply(point: bytes) -> bytes:
        found: bytes = crypto_scalarmult_ed25519_noclamp(scalar, point)
        return found

    try:
        return _map_in_threads(multiply, points)
    except CryptoError as error:
        raise OrderError("what came to be compared is no point of the agreed group") from error


def compute_oprf_output(element: bytes, point: bytes) -> bytes:
    """Return the pseudorandom function's output (64 bytes) at an element, from its point times the key."""
    return hashlib.sha512(_VALUE + element + point).digest()


def _map_in_threads(compute: Callable[[bytes], bytes], values: Sequence[bytes]) -> list[bytes]:
    if len(values) <= _CHUNK:
        return [compute(value) for value in values]
    chunks = [values[at : at + _CHUNK] for at in range(0, len(values), _CHUNK)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as threads:
        return [
            found for some in threads.map(lambda chunk: [compute(value) for value in chunk], chunks) for found in some
        ]
