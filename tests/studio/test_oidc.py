"""Logging in at a real OpenID provider, in a process of its own; and what a provider or an attacker gets wrong."""

from __future__ import annotations

import hmac
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from luthier.core.errors import InputError
from luthier.people.accounts import add_person, find_account, remove_person
from luthier.people.audit import list_entries
from luthier.people.invitations import create_invitation
from luthier.people.oidc import LoginFailed, OidcProvider, OidcSettings
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from studio.conftest import URL, Browser

PASSWORD = "four plain words here"
USERS = (
    {"sub": "1001", "email": "lea@team.example", "email_verified": True, "name": "Lea", "preferred_username": "olga"},
    {"sub": "1002", "email": "mia@team.example", "email_verified": False, "name": "Mia"},
    {"sub": "1003", "email": "eve@evil.example", "email_verified": True, "name": "Eve"},
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A provider that is run as its makers mean it to be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    users = [word for user in USERS for word in ("--user-claims", json.dumps(user))]
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), "-n", "true", *users]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{url}/.well-known/openid-configuration") as said:
                    issuer = json.load(said)["issuer"]
                break
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.1)
        yield issuer
        server.terminate()


@pytest.fixture
def people(studio: Studio, issuer: str) -> Studio:
    """A workspace with an owner, whose people may log in there."""
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root", password=PASSWORD)
    studio.oidc = OidcProvider(
        OidcSettings(issuer=issuer, client_id="luthier", client_secret="a secret", domains=("team.example",))
    )
    return studio


@pytest.fixture
def visitor(people: Studio) -> Browser:
    browser = Browser(build_app(people), base_url=URL)
    assert "/oidc/login" in browser.get("/login").text
    return browser


def go(browser: Browser, user: str, address: str = "/oidc/login?next=/account") -> str:
    """Log in at the provider; the path that it sends the browser back to."""
    url = browser.get(address, follow_redirects=False).headers["location"]
    back = httpx.post(url, data={"sub": user}).headers["location"]
    assert back.startswith(f"{URL}/oidc/return?")
    return back.removeprefix(URL)


def test_a_verified_address_of_the_team_gets_in(visitor: Browser, people: Studio) -> None:
    url = visitor.get("/oidc/login", follow_redirects=False).headers["location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["response_type"] == "code"
    assert asked["redirect_uri"] == f"{URL}/oidc/return"
    assert len(asked["state"]) > 40
    assert len(asked["nonce"]) > 40
    opened = visitor.get(go(visitor, "1001"))
    assert opened.status_code == 200, opened.text
    assert 'content="0;url=/account"' in opened.text
    page = visitor.get("/account").text
    assert "lea@team.example" in page
    account = find_account(people.ledger, "olga-2")
    assert account.roles == {"*": "viewer"}
    assert not account.has_password
    again = Browser(build_app(people), base_url=URL)
    again.get("/login")
    again.get(go(again, "1001"))
    assert "olga-2" in again.get("/account").text, "the same person comes again"
    assert list_entries(people.ledger)[0].action == "login"
    remove_person(people.ledger, "olga-2", by="olga")
    assert again.get("/account").status_code == 401


@pytest.mark.parametrize("user", ["1002", "1003", "unknown"])
def test_others_are_not_let_in(visitor: Browser, user: str) -> None:
    answer = visitor.get(go(visitor, user))
    assert answer.status_code == 403
    assert "nobody here is known by this login" in answer.text
    assert visitor.get("/account").status_code == 401


def test_an_invitation_lets_anybody_in_once(visitor: Browser, people: Studio) -> None:
    token = create_invitation(people.ledger, "labeller", ["tickets"], by="olga")
    assert "/oidc/login?invitation=" in visitor.get(f"/invite/{token}").text
    assert visitor.get(go(visitor, "1003", f"/oidc/login?invitation={token}")).status_code == 200
    assert "eve@evil.example" in visitor.get("/account").text
    other = Browser(build_app(people), base_url=URL)
    other.get("/login")
    assert other.get(go(other, "1002", f"/oidc/login?invitation={token}")).status_code == 400


def test_a_login_ends_where_it_began_and_once(visitor: Browser, people: Studio) -> None:
    back = go(visitor, "1001")
    other = Browser(build_app(people), base_url=URL)
    other.get("/login")
    assert other.get(back).status_code == 403, "another browser has no part in it"
    for wrong in (
        back.replace("state=", "state=x"),
        "/oidc/return",
        "/oidc/return?state=",
        "/oidc/return?code=x&state=x",
    ):
        assert visitor.get(wrong).status_code == 403
    assert visitor.get(back).status_code == 200
    assert visitor.get(back, follow_redirects=False).status_code == 403
    bare = Browser(build_app(people), base_url=URL)
    assert bare.get("/oidc/login", follow_redirects=False).status_code == 403


def test_a_code_of_another_login_is_refused(visitor: Browser) -> None:
    """Its token has another nonce; a provider that checks PKCE, as this one does not, refuses it before."""
    stolen = parse_qs(urlsplit(go(visitor, "1001")).query)["code"][0]
    own = go(visitor, "1003")
    code = parse_qs(urlsplit(own).query)["code"][0]
    assert visitor.get(own.replace(code, stolen)).status_code == 400
    assert visitor.get("/account").status_code == 401


def test_a_refusal_of_the_provider_is_said(visitor: Browser) -> None:
    url = visitor.get("/oidc/login", follow_redirects=False).headers["location"]
    state = parse_qs(urlsplit(url).query)["state"][0]
    answer = visitor.get(f"/oidc/return?error=access_denied&state={state}")
    assert answer.status_code == 400
    assert "the provider refused the login" in answer.text


def test_where_it_leads_afterwards_is_an_own_page(visitor: Browser) -> None:
    opened = visitor.get(go(visitor, "1001", "/oidc/login?next=//evil.example"))
    assert 'content="0;url=/"' in opened.text


@pytest.mark.parametrize("issuer", ["http://login.example", "ftp://x", "login.example", ""])
def test_an_issuer_is_an_https_address(issuer: str) -> None:
    with pytest.raises(InputError, match="https"):
        OidcProvider(OidcSettings(issuer=issuer, client_id="x"))


ISSUER = "https://login.example"
RIGHT: Mapping[str, Any] = {"iss": ISSUER, "aud": "luthier", "sub": "7", "nonce": "n" * 64}


class Forger:
    """A provider whose tokens this test makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from joserfc.jwk import KeySet, RSAKey

        self.key, self.other = (RSAKey.generate_key(2048, parameters={"kid": name}) for name in ("a", "a"))
        self.provider = OidcProvider(OidcSettings(issuer=ISSUER, client_id="luthier"))
        said = {
            f"{ISSUER}/.well-known/openid-configuration": {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"},
            f"{ISSUER}/keys": KeySet([self.key]).as_dict(private=False),
        }
        monkeypatch.setattr(self.provider, "_fetch", lambda url, again=False: said[url])

    def sign(self, claims: Mapping[str, Any], key: Any = None) -> str:
        from joserfc import jwt

        now = int(time.time())
        content = {"iat": now, "exp": now + 300, **claims}
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "a"}, content, key or self.key)


@pytest.fixture
def forger(monkeypatch: pytest.MonkeyPatch) -> Forger:
    return Forger(monkeypatch)


def test_a_right_token_is_taken(forger: Forger) -> None:
    token = forger.sign({**RIGHT, "email": "lea@team.example", "email_verified": True, "name": "Lea"})
    found = forger.provider._identity(token, RIGHT["nonce"])
    assert (found.subject, found.email, found.handle) == ("7", "lea@team.example", "lea")
    unverified = forger.sign({**RIGHT, "email": "lea@team.example", "email_verified": "true"})
    assert forger.provider._identity(unverified, RIGHT["nonce"]).email == ""
    several = forger.sign({**RIGHT, "aud": ["luthier", "other"], "azp": "luthier"})
    assert forger.provider._identity(several, RIGHT["nonce"]).subject == "7"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"}, {"iss": None}, {"aud": "another"}, {"aud": None}, {"aud": ["another"]},
        {"aud": ["luthier", "other"]}, {"azp": "another"}, {"exp": 1}, {"exp": None}, {"exp": "later"},
        {"iat": 1 << 40}, {"iat": None}, {"nbf": 1 << 40}, {"nonce": "another"}, {"nonce": None}, {"sub": None},
        {"sub": ""}, {"sub": 7},
    ],
)  # fmt: skip
def test_a_token_with_a_wrong_claim_is_refused(forger: Forger, change: dict[str, Any]) -> None:
    with pytest.raises(LoginFailed, match="ID token is refused"):
        forger.provider._identity(forger.sign({**RIGHT, **change}), RIGHT["nonce"])


def test_a_token_that_the_provider_did_not_sign_is_refused(forger: Forger) -> None:
    from base64 import urlsafe_b64encode

    def part(content: Mapping[str, Any]) -> str:
        return urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    now = int(time.time())
    claims = {**RIGHT, "iat": now, "exp": now + 300}
    right = forger.sign(RIGHT)
    confused = f"{part({'alg': 'HS256', 'kid': 'a'})}.{part(claims)}"
    by_secret = hmac.digest(forger.key.as_pem(private=False), confused.encode(), "sha256")
    forged = [
        f"{part({'alg': 'none'})}.{part(claims)}.",
        f"{part({'alg': 'None', 'kid': 'a'})}.{part(claims)}.",
        f"{confused}.{urlsafe_b64encode(by_secret).decode().rstrip('=')}",
        forger.sign(RIGHT, key=forger.other),
        f"{right.split('.')[0]}.{part({**claims, 'sub': '8'})}.{right.split('.')[2]}",
        right.rpartition(".")[0] + ".",
        "", "x", "a.b.c", right + "x",
    ]  # fmt: skip
    for token in forged:
        with pytest.raises(LoginFailed, match="not signed"):
            forger.provider._identity(token, RIGHT["nonce"])


def test_another_issuer_in_the_answer_is_refused(forger: Forger) -> None:
    from luthier.people.oidc import PendingLogin

    pending = PendingLogin("", "s", RIGHT["nonce"], "v", f"{URL}/oidc/return")
    for answer in (
        {"state": "s", "code": "c", "iss": "https://evil.example"},
        {"state": "t", "code": "c"},
        {"code": "c"},
    ):
        with pytest.raises(LoginFailed):
            forger.provider.finish(pending, answer)
