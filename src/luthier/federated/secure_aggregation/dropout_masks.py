"""One site's part in a masked round that others may drop out of (Bonawitz et al. 2017), over graphs for many sites.

A site trains first, so that most drop-outs come before any mask. Then it makes fresh keys for this round, signed by its
card's key, and names at random the sites that it wants as neighbours (Bell et al. 2020: for many sites, a sparse graph
is enough). Two sites are neighbours when one of them chose the other. Each neighbour gets an encrypted Shamir share of
the site's mask key and of the seed of a further mask of its own. The coordinator gets the masked numbers, and names who
sent theirs: the survivors. All of them sign that list, and each gives its shares only when enough sites signed the same
one: shares of seeds for survivors, shares of mask keys for the others, never both of one site.

Keys and seeds live in the site's scratch folder until the round ends. Later, nobody can unmask what was recorded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.files import write_atomically
from luthier.federated.errors import MessageError, OrderError
from luthier.federated.messaging.keys import FederationIdentity, Hex32, PublicCard, verify_signature
from luthier.federated.secure_aggregation.masks import draw_stream
from luthier.federated.secure_aggregation.shamir import SHARE_BYTES, join_shares, split_secret

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_SITES = 4
"""Below this number, no site may drop out: more than two thirds must remain."""
COLLUDING = 0.2
"""The share of the sites that may work together with the coordinator, where not all are neighbours."""
FAILURE = 2.0**-40
"""The chance with which a random graph may leave some site too few honest, or too few remaining, neighbours."""
_KEYS, _SHARES, _SURVIVORS = b"luthier mask keys 1", b"luthier mask shares 1", b"luthier mask survivors 1"
_PAIR, _OWN = b"luthier mask pair 1", b"luthier mask own 1"
_NONCE = bytes(12)
"""Each key is used once."""


class MaskKeys(BaseModel):
    """A site's public keys for one round, and the neighbours that it chose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mask: str = Hex32
    """The X25519 key that pairs of sites make masks from."""
    share: str = Hex32
    """The X25519 key that shares are encrypted to."""
    seed_digest: str = Hex32
    """SHA-256 of the seed of the site's own mask."""
    chosen: list[str] = Field(max_length=100_000)
    """Fingerprints."""
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")

    def list_signed(self, about: str) -> bytes:
        """Return the signed content, for a round."""
        return " ".join([about, self.mask, self.share, self.seed_digest, *self.chosen]).encode()


class MaskContext(BaseModel):
    """Identifies a masked round; the same at all sites."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: str
    round: int
    digest: str
    """SHA-256 of the message that began the round: sites that were sent other weights refuse each other's keys."""
    group: tuple[str, ...]
    """Fingerprints of all sites that mask their numbers together, sorted."""
    least: int
    """Sites that must remain."""

    @property
    def about(self) -> str:
        """The round as text, to which all signatures and derived keys are bound: sites that were told of different
        groups refuse each other's keys.
        """
        group = hashlib.sha256(" ".join(self.group).encode()).hexdigest()
        return f"{self.federation} {self.round} {self.digest} {self.least} {group}"

    def number_of(self, fingerprint: str) -> int:
        """The number of a site as a holder of shares."""
        return 1 + self.group.index(fingerprint)

    def list_neighbors(self, keys: Mapping[str, MaskKeys], site: str) -> list[str]:
        """Sites that chose this one or that it chose, sorted."""
        own = set(keys[site].chosen)
        return sorted(one for one in keys if one != site and (one in own or site in keys[one].chosen))

    def count_shares(self, holders: int) -> int:
        """Return the shares that reconstruct a secret with `holders` holders, the site itself included."""
        if count_chosen(len(self.group), self.least) == len(self.group) - 1:
            return min(self.least, holders)
        return max(2, math.ceil(holders * _share_of(len(self.group), self.least)))


def find_least(sites: int) -> int:
    """Return the minimum number of remaining sites: more than two thirds.

    Then any two lists of survivors with enough signatures are equal, even if a third of the sites collude with the
    coordinator.
    """
    return 2 * sites // 3 + 1


def check_least(sites: int, least: int) -> str:
    """Return why masks do not allow a round of this number of sites; empty when they do."""
    if sites < LEAST_SITES or least < find_least(sites):
        needed = find_least(sites)
        return f"under masks more than two thirds of the sites must remain: {needed} of {sites}, got {least}"
    return ""


def count_chosen(sites: int, least: int) -> int:
    """Return how many neighbours each site chooses at random; all others up to about two hundred sites.

    With fewer, Hoeffding's bound says that the colluding holders of a secret stay below the number of shares, and the
    remaining ones reach it, except with probability `FAILURE` over all sites.
    """
    gap = _share_of(sites, least) - COLLUDING
    holders = math.ceil(math.log(2 * sites / FAILURE) / (2 * gap**2))
    return min(sites - 1, math.ceil(0.6 * holders))  # as many again choose it, some of them the same ones


def _share_of(sites: int, least: int) -> float:
    """Half-way between the colluding ones and those that remain."""
    return (COLLUDING + least / sites) / 2


def verify_keys(about: MaskContext, keys: Mapping[str, MaskKeys], cards: Mapping[str, PublicCard]) -> None:
    """`MessageError` unless each site's card signed its keys for this round, and enough sites are there."""
    if len(keys) < about.least:
        raise MessageError(f"{len(keys)} sites are to be masked together, and at least {about.least} were agreed")
    if unknown := sorted(keys.keys() - cards.keys()):
        raise MessageError(f"keys of {unknown[0][:12]} came, which is no peer of this site, or not of its group")
    for fingerprint, own in keys.items():
        if not set(own.chosen) <= set(about.group) - {fingerprint}:
            raise MessageError(f"{cards[fingerprint].name} chose neighbours that are no sites of the order")
        signature, text = bytes.fromhex(own.signature), _KEYS + own.list_signed(about.about)
        if not verify_signature(cards[fingerprint], signature, text):
            raise MessageError(
                f"the keys of {cards[fingerprint].name} for round {about.round} are not signed by its card, or it was "
                "sent other weights or another group"
            )


def verify_survivors(
    about: MaskContext, survivors: Sequence[str], signatures: Mapping[str, str], cards: Mapping[str, PublicCard]
) -> None:
    """`MessageError` unless enough of the sites that remain signed one list of them."""
    if left := sorted(set(signatures) - set(survivors)):
        raise MessageError(f"{left[0][:12]} signed who remains, and does not remain")
    if len(signatures) < about.least:
        raise MessageError(f"{len(signatures)} sites signed who remains, and at least {about.least} were agreed")
    text = _SURVIVORS + _list_text(about, survivors)
    for signer, signature in signatures.items():
        if not verify_signature(cards[signer], _read_hex(signature, 64), text):
            raise MessageError(f"{cards[signer].name} signed another list of the sites that remain")


class _Secrets(BaseModel):
    """A site's secrets of a round."""

    model_config = ConfigDict(extra="forbid")

    about: MaskContext
    mask: str
    share: str
    seed: str
    keys: dict[str, MaskKeys] = {}
    """Keys of the participating sites."""
    received: dict[str, str] = {}
    """Encrypted shares, by who sent them."""
    own_shares: tuple[str, str] = ("", "")
    """The site's own shares of its secrets: of the seed and of the mask key."""
    survivors: list[str] = []


class DropoutMasks:
    """One site in one masked round; every stage is stored, so that a killed site resumes."""

    def __init__(self, identity: FederationIdentity, peers: Mapping[str, PublicCard], folder: Path) -> None:
        """`peers` by fingerprint. `folder` is the site's own, for one federation."""
        self._identity, self._own = identity, identity.card.fingerprint
        self._cards = {**peers, self._own: identity.card}
        self._path = folder / "masks.json"

    @property
    def about(self) -> MaskContext:
        """The round that was begun."""
        return self._read().about

    def begin(self, about: MaskContext) -> MaskKeys:
        """Fresh keys for a round, and neighbours chosen at random among all peers of the group."""
        if sorted(about.group) != sorted(self._cards):
            raise OrderError("the order's group of sites is not this site and its peers")
        if why := check_least(len(about.group), about.least):
            raise OrderError(why)
        if self._path.is_file() and (kept := self._read()).about == about:
            return self._sign_keys(kept, kept.keys[self._own].chosen)
        mask, share = _create_key(), _create_key()
        found = _Secrets(about=about, mask=mask.hex(), share=share.hex(), seed=os.urandom(32).hex())
        others = sorted(set(about.group) - {self._own})
        chosen = secrets.SystemRandom().sample(others, count_chosen(len(about.group), about.least))
        keys = self._sign_keys(found, sorted(chosen))
        found.keys = {self._own: keys}
        self._write(found)
        return keys

    def share(self, keys: Mapping[str, MaskKeys]) -> dict[str, str]:
        """Encrypted shares of the site's secrets for each neighbour, in hexadecimal."""
        found = self._read()
        verify_keys(found.about, keys, self._cards)
        if keys.get(self._own) != found.keys[self._own]:
            raise MessageError("the keys that came for this site are not its own")
        found.keys = dict(keys)
        about = found.about
        neighbors = about.list_neighbors(keys, self._own)
        numbers = {about.number_of(name): name for name in [*neighbors, self._own]}
        needed = about.count_shares(len(numbers))
        if len(numbers) < needed:
            raise MessageError(f"{len(numbers) - 1} neighbours are there, too few to share a secret among {needed}")
        seeds = split_secret(bytes.fromhex(found.seed), numbers, needed)
        masks = split_secret(bytes.fromhex(found.mask), numbers, needed)
        own = about.number_of(self._own)
        found.own_shares = (seeds[own].hex(), masks[own].hex())
        self._write(found)
        return {
            name: self._encrypt(found, name, seeds[number] + masks[number])
            for number, name in numbers.items()
            if name != self._own
        }

    def mask(self, numbers: NDArray[Any], received: Mapping[str, str], senders: Sequence[str]) -> NDArray[Any]:
        """The numbers (uint64) with the masks towards neighbours that shared, and with the site's own.

        `senders` are all sites that shared their secrets; `received` are the shares of this site's neighbours."""
        found = self._read()
        about = found.about
        self._check_list(found, senders, "shared their secrets")
        due = set(about.list_neighbors(found.keys, self._own)) & set(senders)
        if due != set(received):
            raise MessageError("the shares that came are not those of this site's neighbours")
        for sender, text in received.items():
            self._decrypt(found, sender, text)
        found.received = dict(received)
        self._write(found)
        total: NDArray[Any] = numbers + draw_stream(
            bytes.fromhex(found.seed), len(numbers), _OWN + about.about.encode()
        )
        for peer in sorted(due):
            secret = _agree(bytes.fromhex(found.mask), found.keys[peer].mask)
            total = add_pair_stream(total, about, self._own, peer, secret)
        return total

    def sign_survivors(self, survivors: Sequence[str]) -> str:
        """The signature of the list of sites whose masked numbers came; this site signs one list a round."""
        found = self._read()
        self._check_list(found, survivors, "sent masked numbers")
        if found.survivors and found.survivors != sorted(survivors):
            raise MessageError("another list of the sites that remain was signed already")
        found.survivors = sorted(survivors)
        self._write(found)
        return self._identity.sign(_SURVIVORS + _list_text(found.about, survivors)).hex()

    def reveal(self, signatures: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Shares of the seeds of neighbours that remain, and of the mask keys of those that do not; once enough sites
        signed the same list as this one. What the site kept of the round is removed."""
        found = self._read()
        if not found.survivors:
            raise MessageError("the list of the sites that remain comes before their signatures")
        verify_survivors(found.about, found.survivors, signatures, self._cards)
        seeds, masks = {self._own: found.own_shares[0]}, dict[str, str]()
        for sender, encrypted in found.received.items():
            both = self._decrypt(found, sender, encrypted)
            if sender in found.survivors:
                seeds[sender] = both[:SHARE_BYTES].hex()
            else:
                masks[sender] = both[SHARE_BYTES:].hex()
        self.forget()
        return seeds, masks

    def forget(self) -> None:
        """Remove what is kept of a round."""
        self._path.unlink(missing_ok=True)

    def _check_list(self, found: _Secrets, names: Sequence[str], what: str) -> None:
        """`MessageError` for a list of sites that is too short, or holds others than those that take part."""
        if len(set(names)) != len(names) or not set(names) <= found.keys.keys():
            raise MessageError(f"the list of sites that {what} names one that takes no part")
        if len(names) < found.about.least:
            raise MessageError(f"{len(names)} sites {what}, and at least {found.about.least} were agreed")
        if self._own not in names:
            raise MessageError(f"the list of sites that {what} leaves out this one, which did")

    def _sign_keys(self, found: _Secrets, chosen: list[str]) -> MaskKeys:
        seed = hashlib.sha256(bytes.fromhex(found.seed)).hexdigest()
        bare = MaskKeys(
            mask=get_public(found.mask), share=get_public(found.share), seed_digest=seed, chosen=chosen,
            signature="0" * 128,
        )  # fmt: skip
        signature = self._identity.sign(_KEYS + bare.list_signed(found.about.about))
        return bare.model_copy(update={"signature": signature.hex()})

    def _encrypt(self, found: _Secrets, reader: str, content: bytes) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        key = self._derive_share_key(found, reader, self._own, reader)
        return ChaCha20Poly1305(key).encrypt(_NONCE, content, None).hex()

    def _decrypt(self, found: _Secrets, sender: str, text: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        key = self._derive_share_key(found, sender, sender, self._own)
        try:
            return ChaCha20Poly1305(key).decrypt(_NONCE, _read_hex(text, 2 * SHARE_BYTES + 16), None)
        except InvalidTag as error:
            raise MessageError(f"the shares of {self._cards[sender].name} cannot be opened") from error

    def _derive_share_key(self, found: _Secrets, peer: str, sender: str, reader: str) -> bytes:
        """The key of shares from one site to another in this round."""
        shared = _agree(bytes.fromhex(found.share), found.keys[peer].share)
        return derive_key(shared, _SHARES + f"{found.about.about} {sender} {reader}".encode())

    def _read(self) -> _Secrets:
        if not self._path.is_file():
            raise MessageError("this comes after the end of its round, or before its beginning")
        return _Secrets.model_validate_json(self._path.read_bytes())

    def _write(self, found: _Secrets) -> None:
        write_atomically(self._path, json.dumps(found.model_dump(mode="json")).encode())
        self._path.chmod(0o600)


def add_pair_stream(
    total: NDArray[Any], about: MaskContext, site: str, peer: str, secret: bytes, *, sign: int = 1
) -> NDArray[Any]:
    """Numbers with the stream that a site adds for a peer; `sign` -1 takes it away again."""
    pair = " ".join(sorted([site, peer]))
    stream = draw_stream(secret, len(total), _PAIR + f"{about.about} {pair}".encode())
    found: NDArray[Any] = total + stream if (site < peer) == (sign > 0) else total - stream
    return found


class RevealedShares(BaseModel):
    """The remaining sites' shares that unmask the sum."""

    seeds: dict[str, dict[str, str]] = {}
    """Shares of each remaining site's seed, by who gave them."""
    masks: dict[str, dict[str, str]] = {}
    """Shares of the mask keys of sites that dropped out."""


def unmask_sum(
    total: NDArray[Any],
    about: MaskContext,
    keys: Mapping[str, MaskKeys],
    senders: Sequence[str],
    survivors: Sequence[str],
    revealed: RevealedShares,
) -> NDArray[Any]:
    """The sum of the encoded numbers of the sites that remain, from the sum of their masked ones.

    `InputError` where too few shares came, or shares belong to other secrets than those that were announced.
    """
    for site in survivors:
        seed = _join(about, keys, site, revealed.seeds.get(site, {}))
        if hashlib.sha256(seed).hexdigest() != keys[site].seed_digest:
            raise MessageError(f"the shares of the mask of {site[:12]} are not those that it announced")
        total = total - draw_stream(seed, len(total), _OWN + about.about.encode())
    for lost in sorted(set(senders) - set(survivors)):
        neighbors = set(about.list_neighbors(keys, lost)) & set(survivors)
        if not neighbors:
            continue
        mask = _join(about, keys, lost, revealed.masks.get(lost, {}))
        if get_public(mask.hex()) != keys[lost].mask:
            raise MessageError(f"the shares of the key of {lost[:12]} are not those that it announced")
        for site in sorted(neighbors):
            total = add_pair_stream(total, about, site, lost, _agree(mask, keys[site].mask), sign=-1)
    return total


def _join(about: MaskContext, keys: Mapping[str, MaskKeys], owner: str, given: Mapping[str, str]) -> bytes:
    holders = [*about.list_neighbors(keys, owner), owner]
    shares = {about.number_of(name): _read_hex(given[name], SHARE_BYTES) for name in holders if name in given}
    return join_shares(shares, about.count_shares(len(holders)))


def _create_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate().private_bytes_raw()


def get_public(private: str) -> str:
    """The public X25519 key of a private one, both in hexadecimal."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw().hex()


def _agree(private: bytes, public: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        other = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return X25519PrivateKey.from_private_bytes(private).exchange(other)
    except ValueError as error:
        raise MessageError("a key for masks is none") from error


def derive_key(shared: bytes, about: bytes) -> bytes:
    """A key of 32 bytes, by HKDF-SHA256."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, None, about).derive(shared)


def _list_text(about: MaskContext, names: Sequence[str]) -> bytes:
    return " ".join([about.about, *sorted(names)]).encode()


def _read_hex(text: str, length: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise MessageError("a share or signature is none") from error
    if len(found) != length:
        raise MessageError(f"a share or signature has {len(found)} bytes in place of {length}")
    return found
