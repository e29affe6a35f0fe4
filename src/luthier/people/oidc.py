"""Logging in at an OpenID provider: authorization code with PKCE, and a check of everything in the ID token.

Needs the extra `oidc` (authlib, joserfc). The provider is named by whoever starts the studio; nothing else is fetched.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from luthier.core.errors import InputError, LuthierError, MissingExtra, SourceLocation
from luthier.people.rights import Role

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Signatures by a key pair: neither `none`, nor a secret that both sides know."""
_LEEWAY_S, _KEYS_S, _TIMEOUT_S = 60, 600.0, 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class OidcSettings:
    """A provider, and who may come from it."""

    issuer: str
    client_id: str
    client_secret: str = ""
    """Empty for a public client."""
    domains: tuple[str, ...] = ()
    """Domains of e-mail addresses whose owners get an account without an invitation."""
    role: Role = "viewer"
    """The role of these, in the whole workspace."""


class Identity(NamedTuple):
    """Who somebody is at a provider."""

    issuer: str
    subject: str
    email: str
    """Empty unless the provider has verified it."""
    name: str
    handle: str
    """What an account could be called."""


class PendingLogin(NamedTuple):
    """A login that began, as its browser has to end it."""

    url: str
    """Where the browser goes."""
    state: str
    nonce: str
    verifier: str
    redirect_uri: str


class LoginFailed(LuthierError):
    """The provider refused, or what came back is not what was asked for."""


class OidcProvider:
    """One provider: its addresses and keys are fetched when they are needed, and again after ten minutes."""

    def __init__(self, settings: OidcSettings) -> None:
        """`MissingExtra` without the extra, `InputError` for an issuer that is no https address."""
        try:
            import authlib  # noqa: F401
            import joserfc  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("authlib is not installed", hint="pip install 'luthier[oidc]'") from error
        _check_address(settings.issuer, "--oidc")
        self.settings = settings
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._turn = threading.Lock()

    @property
    def host(self) -> str:
        """What people know the provider by."""
        return urlsplit(self.settings.issuer).hostname or ""

    def begin(self, redirect_uri: str) -> PendingLogin:
        """The address to send a browser to, and what it has to bring back."""
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                self._address("authorization_endpoint"), state=state, nonce=nonce, code_verifier=verifier
            )
        return PendingLogin(url, state, nonce, verifier, redirect_uri)

    def finish(self, pending: PendingLogin, answer: Mapping[str, str]) -> Identity:
        """Who came back; `LoginFailed` where anything is not as it was asked for."""
        from authlib.integrations.base_client import OAuthError
        from httpx import HTTPError

        if not hmac.compare_digest(answer.get("state", "").encode(), pending.state.encode()):
            raise LoginFailed("this login was not begun here", hint="log in again")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise LoginFailed("another provider answered", hint="log in again")
        if "code" not in answer:
            raise LoginFailed("the provider refused the login", hint="log in again, or ask whoever runs it")
        try:
            with self._client(pending.redirect_uri) as client:
                token = client.fetch_token(
                    self._address("token_endpoint"), code=answer["code"], code_verifier=pending.verifier
                )
        except (OAuthError, HTTPError, ValueError) as error:
            raise LoginFailed("the provider does not take this login", hint="log in again") from error
        return self._identity(str(token.get("id_token", "")), pending.nonce)

    def _client(self, redirect_uri: str) -> Any:
        from authlib.integrations.httpx_client import OAuth2Client

        settings = self.settings
        return OAuth2Client(
            settings.client_id,
            settings.client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if settings.client_secret else "none",
            scope="openid email profile",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )

    def _identity(self, id_token: str, nonce: str) -> Identity:
        """Who an ID token is about, once its signature, issuer, audience, time and nonce are right."""
        claims = self._verify_claims(id_token)
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else list(audience or ())
        now = time.time()
        faults = {
            "its issuer is another": claims.get("iss") != self.settings.issuer,
            "it is for another": self.settings.client_id not in audiences,
            "it was made out to another": claims.get("azp", self.settings.client_id) != self.settings.client_id
            or (len(audiences) > 1 and "azp" not in claims),
            "it is over": not _is_number(claims.get("exp")) or claims["exp"] < now - _LEEWAY_S,
            "it is not yet valid": claims.get("nbf", 0) > now + _LEEWAY_S,
            "it was made later than now": not _is_number(claims.get("iat")) or claims["iat"] > now + _LEEWAY_S,
            "its nonce is another": not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()),
            "it says nobody": not isinstance(claims.get("sub"), str) or not claims["sub"],
        }
        if found := [fault for fault, is_so in faults.items() if is_so]:
            raise LoginFailed(f"the provider's ID token is refused: {found[0]}", hint="log in again")
        email = str(claims.get("email", "")) if claims.get("email_verified") is True else ""
        handle = str(claims.get("preferred_username") or email.partition("@")[0] or claims.get("name") or "person")
        return Identity(self.settings.issuer, claims["sub"][:256], email, str(claims.get("name", "")), handle)

    def _verify_claims(self, id_token: str) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        for is_fresh in (False, True):  # a key that is not known yet may be a new one
            keys = KeySet.import_key_set(self._fetch(self._address("jwks_uri"), again=is_fresh))  # type: ignore[arg-type]
            try:
                return dict(jwt.decode(id_token, keys, algorithms=list(_ALGORITHMS)).claims)
            except (JoseError, ValueError) as error:
                fault = error
        raise LoginFailed("the provider's ID token is not signed by it", hint="log in again") from fault

    def _address(self, name: str) -> str:
        """An address of the provider's, from what it says of itself."""
        response = self._fetch(self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if response.get("issuer") != self.settings.issuer:
            what = f"the provider calls itself {str(response.get('issuer'))[:200]!r}"
            raise LoginFailed(what, where=SourceLocation(field="--oidc"), hint="give the issuer as it calls itself")
        _check_address(str(response.get(name, "")), name)
        return str(response[name])

    def _fetch(self, url: str, *, again: bool = False) -> dict[str, Any]:
        import httpx

        with self._turn:
            at, found = self._kept.get(url, (0.0, {}))
            if found and not again and time.monotonic() - at < _KEYS_S:
                return found
        try:
            response = httpx.get(url, timeout=_TIMEOUT_S).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise LoginFailed(f"the provider at {self.host} does not answer", hint="try again later") from error
        if not isinstance(response, dict):
            raise LoginFailed(f"the provider at {self.host} answers something else", hint="check --oidc")
        with self._turn:
            self._kept[url] = (time.monotonic(), response)
        return response


def _check_address(url: str, field: str) -> None:
    """`InputError` for an address that is not encrypted, but on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    what = f"expected an https address, got {url[:200]!r}"
    raise InputError(what, where=SourceLocation(field=field), hint="for example https://login.example")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
