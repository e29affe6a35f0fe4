"""Keys of coordinators and sites, and envelopes that are signed and encrypted to their reader.

An identity has an Ed25519 key for signatures and an X25519 key for encryption. An envelope is encrypted by
ChaCha20-Poly1305 under a key from a fresh X25519 exchange (HKDF-SHA256), and signed as a whole. Its header has sender,
reader, federation and number; encryption and signature cover it. There is one format.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.errors import InputError, MissingExtra, SourceLocation
from luthier.core.files import json_bytes, write_atomically
from luthier.federated.errors import MessageError, explain_settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

ENVELOPE = b"LUE1"
_PURPOSE = b"luthier federation envelope 1"
_KEY, _SIGNATURE = 32, 64
_NONCE = bytes(12)
"""Each key is used once."""
CARD_FILE, KEY_FILE = "card.json", "private.key"
Hex32 = Field(pattern=r"^[0-9a-f]{64}$")
Name = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")


class PublicCard(BaseModel):
    """The public keys of a coordinator or a site, to be handed over by a way that both trust."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Name
    sign: str = Hex32
    """The Ed25519 key, in hexadecimal."""
    encrypt: str = Hex32
    """The X25519 key, in hexadecimal."""
    data: str = ""
    """Names the rows that a site trains on, without telling anything of them: other rows, another name."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both keys, to be compared by voice."""
        return hashlib.sha256(bytes.fromhex(self.sign) + bytes.fromhex(self.encrypt)).hexdigest()

    @classmethod
    def read(cls, path: Path) -> PublicCard:
        """The card in a file; `InputError` where there is none."""
        hint = "ask for the other side's `card.json`, which `luthier site init` writes"
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            what, instead, field = explain_settings(error, cls)
            where = SourceLocation(file=str(path), field=field or None)
            raise InputError(f"is no card with public keys: {what}", where=where, hint=instead or hint) from error
        except OSError as error:
            raise InputError("is no card with public keys", where=SourceLocation(file=str(path)), hint=hint) from error


class EnvelopeHeader(BaseModel):
    """The unencrypted header of an envelope."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: str = Field(pattern=r"^[0-9a-f]{8,128}$")
    sender: str = Hex32
    reader: str = Hex32
    number: int = Field(ge=0, le=1_000_000)


class FederationIdentity:
    """The private keys of a coordinator or a site."""

    def __init__(self, name: str, sign: Ed25519PrivateKey, encrypt: X25519PrivateKey, data: str = "") -> None:
        self._sign, self._encrypt = sign, encrypt
        self.card = PublicCard(name=name, sign=_public_hex(sign), encrypt=_public_hex(encrypt), data=data)

    @classmethod
    def create(cls, name: str, data: str = "") -> FederationIdentity:
        """A new one, from the system's generator."""
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return cls(name, Ed25519PrivateKey.generate(), X25519PrivateKey.generate(), data)

    def with_data(self, data: str) -> FederationIdentity:
        """Return the same keys with a name of the site's rows."""
        return FederationIdentity(self.card.name, self._sign, self._encrypt, data)

    @property
    def secret(self) -> bytes:
        """Bytes that only who has the private keys knows, for names that tell nothing to others."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        raw = self._encrypt.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return hashlib.sha256(b"luthier site names 1" + raw).digest()

    @classmethod
    def read(cls, folder: Path) -> FederationIdentity:
        """Read the identity in a folder; `InputError` where it is missing, or where other users may read the key."""
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        path = folder / KEY_FILE
        where, hint = SourceLocation(file=str(path)), "make keys by `luthier site init`"
        if not path.is_file():
            raise InputError("there are no private keys", where=where, hint=hint)
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError("can be read by others than its owner", where=where, hint=f"chmod 600 {path}")
        try:
            sign, encrypt = (bytes.fromhex(part) for part in path.read_text(encoding="ascii").split())
            card = PublicCard.read(folder / CARD_FILE)
            found = cls(
                card.name, Ed25519PrivateKey.from_private_bytes(sign), X25519PrivateKey.from_private_bytes(encrypt),
                card.data,
            )  # fmt: skip
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError("holds no private keys", where=where, hint=hint) from error
        if found.card != card:
            raise InputError("belongs to another card", where=where, hint=hint)
        return found

    def write(self, folder: Path) -> None:
        """Write the private keys, which only their owner may read, and the card."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(
            key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex()
            for key in (self._sign, self._encrypt)
        )
        descriptor = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        write_atomically(folder / CARD_FILE, json_bytes(self.card.model_dump(mode="json")))

    def agree(self, other: PublicCard, purpose: bytes) -> bytes:
        """A secret that only this identity and another one can derive, for a purpose."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        shared = self._encrypt.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other.encrypt)))
        return _derive(shared, b"", purpose)

    def sign(self, content: bytes) -> bytes:
        """The signature (64 bytes) of something that begins with what it is for."""
        return self._sign.sign(content)

    def seal(self, content: bytes, reader: PublicCard, federation: str, number: int) -> bytes:
        """An envelope with a message, which only its reader opens."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        header = EnvelopeHeader(
            federation=federation, sender=self.card.fingerprint, reader=reader.fingerprint, number=number
        )
        text = json.dumps(header.model_dump(mode="json"), sort_keys=True).encode()
        fresh = X25519PrivateKey.generate()
        to = bytes.fromhex(reader.encrypt)
        public = bytes.fromhex(_public_hex(fresh))
        key = _derive(fresh.exchange(X25519PublicKey.from_public_bytes(to)), public + to, text)
        sealed = ChaCha20Poly1305(key).encrypt(_NONCE, content, text)
        envelope = ENVELOPE + len(text).to_bytes(4, "big") + text + public + sealed
        return envelope + self._sign.sign(_PURPOSE + envelope)

    def open(self, envelope: bytes, sender: PublicCard, federation: str, number: int) -> bytes:
        """The message in an envelope; `MessageError` unless it is from this sender, to this reader, of this
        federation and number, and unchanged."""
        header = verify_envelope(envelope, sender)
        if header.reader != self.card.fingerprint:
            raise MessageError("an envelope is for another reader")
        if header.federation != federation:
            raise MessageError(f"an envelope belongs to another federation ({header.federation[:12]})")
        if header.number != number:
            raise MessageError(f"an envelope has number {header.number} where {number} was expected")
        return self._decrypt(envelope)

    def _decrypt(self, envelope: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        text, rest = _split(envelope)
        public, sealed = rest[:_KEY], rest[_KEY:-_SIGNATURE]
        try:
            shared = self._encrypt.exchange(X25519PublicKey.from_public_bytes(public))
            key = _derive(shared, public + bytes.fromhex(self.card.encrypt), text)
            return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, text)
        except (InvalidTag, ValueError) as error:
            raise MessageError("an envelope cannot be opened: it was changed, or is for another key") from error


def read_envelope_header(envelope: bytes) -> EnvelopeHeader:
    """Read an envelope's header, which is not verified yet; `MessageError` for anything else."""
    text, _ = _split(envelope)
    try:
        return EnvelopeHeader.model_validate_json(text)
    except ValidationError as error:
        raise MessageError("an envelope has no header") from error


def verify_envelope(envelope: bytes, sender: PublicCard) -> EnvelopeHeader:
    """The header of an envelope that a sender signed; `MessageError` for any other."""
    header = read_envelope_header(envelope)
    if header.sender != sender.fingerprint:
        raise MessageError(f"an envelope is signed by {header.sender[:12]}, which is not the key of {sender.name}")
    if not verify_signature(sender, envelope[-_SIGNATURE:], _PURPOSE + envelope[:-_SIGNATURE]):
        raise MessageError(f"an envelope is not signed by {sender.name}")
    return header


def verify_signature(sender: PublicCard, signature: bytes, content: bytes) -> bool:
    """Return whether the key of a card signed some content."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(sender.sign)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _split(envelope: bytes) -> tuple[bytes, bytes]:
    """The header's bytes, and what follows them."""
    length = int.from_bytes(envelope[4:8], "big")
    if envelope[:4] != ENVELOPE or length > 4096 or len(envelope) < 8 + length + _KEY + 16 + _SIGNATURE:
        raise MessageError("this is no envelope of a federation")
    return envelope[8 : 8 + length], envelope[8 + length :]


def _derive(shared: bytes, salt: bytes, header: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt, _PURPOSE + header).derive(shared)


def _public_hex(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: str = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return found


def _require_cryptography() -> None:
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise MissingExtra("messages to sites need cryptography", hint="pip install 'luthier[federated]'")
