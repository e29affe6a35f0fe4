"""Certificates on both sides of the transport `http`: who has none, or another authority's, gets nothing through."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from luthier.core.errors import InputError, SystemResourceError
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import HttpMailbox
from luthier.federated.sites.policy import HttpAddress, SitePolicy, SitePolicyError
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.transports.http import HttpPost, HttpTransport

FEDERATION = "ab" * 16


class Authority:
    """Signs certificates, and writes them into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        certificate = self._build(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write(self.path, certificate)

    def sign(self, name: str) -> dict[str, str]:
        """A certificate for 127.0.0.1 and its key, as settings."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        path, key_path = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._write(path, self._build(subject, key).add_extension(place, critical=False))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return {"certificate": str(path), "private_key": str(key_path)}

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _write(self, path: Path, certificate: x509.CertificateBuilder) -> None:
        signed = certificate.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


class Place:
    """A coordinator that asks for certificates, with an envelope that waits for the site."""

    def __init__(self, root: Path) -> None:
        self.ours, self.others = Authority(root, "ours"), Authority(root, "others")
        self.keys = {name: FederationIdentity.create(name) for name in ("coordinator", "north")}
        transport = HttpTransport(
            keys="coordinator", member_cards={"north": "card.json"}, client_ca=str(self.ours.path), port=0,
            **self.ours.sign("coordinator"),
        )  # fmt: skip
        cards = {"north": self.keys["north"].card}
        own = self.keys["coordinator"]
        self.post = HttpPost(cards, own.card, FEDERATION, ("127.0.0.1", 0), transport._build_tls(root))
        self.envelope = own.seal(b"question", cards["north"], FEDERATION, 1)
        self.post.put("north", 1, self.envelope)
        self.answer = self.keys["north"].seal(b"answer", own.card, FEDERATION, 1)

    def call(self, site: str = "north", **settings: Any) -> HttpMailbox:
        """A site's end."""
        address = HttpAddress(url=self.post.url, **{"ca": str(self.ours.path), **settings})
        return HttpMailbox(address, site, SitePolicy(name=site, coordinator="card.json", recipe="recipe.yaml"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.post.close()


def test_a_site_with_a_certificate_is_let_in(place: Place) -> None:
    mailbox = place.call(**place.ours.sign("north"))
    assert place.post.url.startswith("https://")
    assert list(mailbox.fetch()) == [place.envelope]
    assert not mailbox.obstacle
    mailbox.answer(FEDERATION, 1, place.answer)
    assert place.post.get("north", 1) == place.answer


def test_a_site_that_the_coordinator_does_not_know_is_told_so(place: Place) -> None:
    mailbox = place.call(site="south", **place.ours.sign("south"))
    assert list(mailbox.fetch()) == []
    assert "knows no site 'south': has it got this site's card?" in mailbox.obstacle


TOLD = {
    "none": "it may want a certificate of this site|accept each other's certificates",
    "another authority's": "it may want a certificate of this site|accept each other's certificates",
    "a coordinator that the site does not know": "do not accept each other's certificates .*see `http` in the policy",
}


@pytest.mark.parametrize("who", TOLD)
def test_nobody_else_gets_anything_through(place: Place, who: str) -> None:
    settings = {
        "none": lambda: {},
        "another authority's": lambda: place.others.sign("stranger"),
        "a coordinator that the site does not know": lambda: {
            **place.ours.sign("north"), "ca": str(place.others.path)
        },
    }[who]()  # fmt: skip
    mailbox = place.call(**settings)
    assert list(mailbox.fetch()) == []
    assert re.search(TOLD[who], mailbox.obstacle), mailbox.obstacle
    with pytest.raises(SystemResourceError, match="cannot be reached"):
        mailbox.answer(FEDERATION, 1, place.answer)
    assert place.post.get("north", 1) is None
    assert list(place.call(**place.ours.sign("north")).fetch()) == [place.envelope], "others are not held up"


def test_a_site_says_once_why_it_hears_nothing_and_when_it_hears_again(place: Place, tmp_path: Path) -> None:
    said, mailbox = list[str](), place.call(**place.ours.sign("north"))
    inputs: Any = SiteInputs(data=None, model=None)  # type: ignore[arg-type]
    server = SiteServer(
        tmp_path, place.keys["north"], place.keys["coordinator"].card, mailbox, inputs, None, said.append
    )
    looks = iter(range(7))
    url, place_url = mailbox._url, "https://127.0.0.1:9"

    def stop() -> bool:
        look = next(looks)
        mailbox._url = place_url if 1 <= look < 4 else url
        return look == 6

    server.run(stop)
    assert said[0].startswith(f"north looks for messages of coordinator at {url}")
    told = [line for line in said if "listens" in line or "can come again" in line]
    assert told == [
        f"nobody listens at {place_url}: the coordinator does so while its recipe runs, or its monitor asks",
        f"messages can come again at {url}",
    ]


def test_older_tls_and_plain_text_are_refused(place: Place) -> None:
    host, port = place.post.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(place.ours.path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, int(port)), 10) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname=host)
    with socket.create_connection((host, int(port)), 10) as plain:
        plain.sendall(b"GET /messages/north HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert place.envelope not in plain.recv(65536)


def test_certificates_that_cannot_be_read_are_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(SitePolicyError, match="the certificates cannot be read"):
        place.call(certificate=str(tmp_path / "bad.pem"), private_key=str(tmp_path / "bad.pem"))
    transport = HttpTransport(
        keys="coordinator", member_cards={"north": "card.json"}, certificate="bad.pem", private_key="bad.pem"
    )
    with pytest.raises(InputError, match="the certificates cannot be read"):
        transport._build_tls(tmp_path)
