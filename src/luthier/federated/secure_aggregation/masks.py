"""Masks under which a coordinator learns the sum over all sites, and no site's own numbers.

Each pair of sites shares a secret by their cards' X25519 keys. From it, the federation, the round and the digest of the
round's message, HKDF derives a key, and ChaCha20 a stream of 64-bit numbers, which one site of the pair adds and the
other takes away, in the ring of integers modulo 2^64. All streams cancel in the sum over all sites, and only there.

A site masks towards all peers that its own policy names, so a coordinator cannot choose a smaller group. Sites that
were sent different weights have different streams, which do not cancel. One missing site leaves nothing but noise: the
round waits for it, or fails. Where sites may drop out, `dropout_masks` takes the place of these streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.core.errors import InputError
from luthier.federated.messaging.keys import FederationIdentity, PublicCard

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LEAST_SITES = 3
"""With two sites, each learns the other's numbers from the sum."""
MASKED = "masked"
"""The name of the masked numbers in a message."""
_BITS = 62
"""Usable bits of the ring's 64: one for the sign, one to spare."""
_PURPOSE = b"luthier mask 1"


class BoundError(InputError):
    """A number that the agreed encoding cannot hold."""


class MaskSettings(BaseModel):
    """Encoding of numbers under masks."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    bound: float = Field(default=64.0, gt=0, le=1e6)
    """The largest weight or loss that may be sent; a larger one is an error at its site."""
    rows: int = Field(default=1 << 20, ge=1, le=1 << 30)
    """The largest number of training rows of one site."""
    groups: int | None = Field(default=None, ge=2)
    """Mask within so many groups of sites, dealt in their order, and tell the coordinator the sum of each: for `robust`
    rules, which then choose between groups. With `least`, more than two thirds of a group must remain, or it is left
    out. One group when not given."""

    def deal(self, sites: Sequence[str]) -> list[list[str]]:
        """The groups."""
        return [list(sites[at :: self.groups or 1]) for at in range(self.groups or 1)]


class MaskedSum(NamedTuple):
    """The sum over all sites."""

    weights: dict[str, Tensor]
    """The mean, weighed by rows."""
    rows: int
    loss: float


def compute_scale(settings: MaskSettings, sites: int) -> int:
    """Return the factor on numbers before rounding: the largest power of two without overflow of a sum."""
    largest = sites * settings.rows * max(1.0, settings.bound)
    return 1 << max(0, _BITS - math.ceil(math.log2(largest)))


def encode_update(
    weights: Mapping[str, Tensor], rows: int, loss: float, settings: MaskSettings, sites: int
) -> NDArray[Any]:
    """(numbers + 2,) uint64: weights by name, the loss and 1, each times the rows, in fixed point; `BoundError` where
    one does not fit."""
    import numpy

    if rows > settings.rows:
        raise BoundError(f"there are more than the agreed {settings.rows:,} rows here")
    parts = [weights[name].double().numpy().reshape(-1) for name in sorted(weights)]
    numbers = numpy.concatenate([*parts, [loss, 0.0]])
    largest = float(numpy.abs(numbers).max())
    if not largest <= settings.bound:  # what is no number is not within it
        raise BoundError(f"a number is beyond the agreed bound of {settings.bound:g}")
    encoded = numpy.rint(numbers * rows * compute_scale(settings, sites)).astype(numpy.int64)
    encoded[-1] = rows
    found: NDArray[Any] = encoded.view(numpy.uint64)
    return found


def decode_sum(
    total: NDArray[Any], shapes: Mapping[str, Tensor], settings: MaskSettings, sites: int, noise: float = 0.0
) -> MaskedSum:
    """The mean of weights and losses from the sum of all sites' encoded numbers; `InputError` where masks are left in
    it. `noise` is the standard deviation of what was added to the sum for privacy."""
    import numpy
    import torch

    signed = total.view(numpy.int64)
    rows = int(signed[-1])
    numbers = signed[:-1].astype(numpy.float64) / compute_scale(settings, sites)
    most = rows * settings.bound * (1 + 1e-9) + 10 * noise
    if not 1 <= rows <= sites * settings.rows or float(numpy.abs(numbers).max()) > most:
        hint = "all sites must be those of the order, each with the others among its `peers`"
        raise InputError("the masks do not cancel in the sum over the sites", hint=hint)
    weights, at = {}, 0
    for name in sorted(shapes):
        value = shapes[name]
        part = torch.from_numpy(numbers[at : at + value.numel()] / rows)
        weights[name] = part.to(value.dtype).reshape(value.shape)
        at += value.numel()
    return MaskedSum(weights, rows, float(numbers[at] / rows))


class PairMasks:
    """One site's masks against its peers."""

    def __init__(self, identity: FederationIdentity, peers: Sequence[PublicCard]) -> None:
        self.identity = identity
        self.peers = {peer.fingerprint: peer for peer in peers}
        self.own = identity.card.fingerprint
        self._secrets = {
            peer.fingerprint: identity.agree(peer, _PURPOSE + _join(self.own, peer.fingerprint)) for peer in peers
        }

    @property
    def group(self) -> list[str]:
        """Fingerprints of the site and its peers, sorted."""
        return sorted([self.own, *self._secrets])

    def within(self, group: Sequence[str]) -> PairMasks:
        """Return the masks against some of the peers alone."""
        return PairMasks(self.identity, [card for name, card in self.peers.items() if name in group])

    def mask(self, numbers: NDArray[Any], federation: str, round_number: int, digest: str) -> NDArray[Any]:
        """The numbers (uint64) with the masks of a round whose message has a digest."""
        total = numbers.copy()
        for peer in sorted(self._secrets):
            stream = draw_stream(self._secrets[peer], len(numbers), f"{federation} {round_number} {digest}".encode())
            total = total + stream if self.own < peer else total - stream
        return total


def draw_stream(secret: bytes, count: int, about: bytes) -> NDArray[Any]:
    """Return `count` numbers (uint64) that only a holder of the 32-byte secret can compute, for one purpose."""
    import numpy
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), 32, None, _PURPOSE + about).derive(secret)
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return numpy.frombuffer(encryptor.update(bytes(8 * count)), dtype="<u8").astype(numpy.uint64)


def _join(one: str, other: str) -> bytes:
    """Both fingerprints, alike at both ends."""
    return " ".join(sorted([one, other])).encode()
