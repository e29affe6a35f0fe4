"""Messages as signed JSON to a URL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from typing import Annotated, Literal

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.core.files import EnvVarMarker
from luthier.core.system.net import find_plain_secret
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel, DeliveryError, post_json


class Webhook(Channel):
    """Send each message as JSON by POST, signed as Standard Webhooks 1.0 says (HMAC-SHA256, `webhook-signature`).

    Receivers check it with that standard's libraries, and drop a `webhook-id` that they had. Addresses inside private
    networks are refused, also where a name server leads there, unless their host is in `allow`; no redirect is
    followed.
    """

    kind: Literal["webhook"] = "webhook"
    url: Annotated[str, Field(min_length=1), EnvVarMarker()]
    """Where to; `$NAME` where the address itself is a secret."""
    secret_env: str | None = None
    """Name of the environment variable that holds the secret to sign with (`whsec_…`, or any text)."""
    allow: tuple[str, ...] = ()
    """Hosts that may be told although they are private, as `alerts.internal`."""
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Seconds to wait for an answer."""

    @field_validator("url")
    @classmethod
    def _hidden(cls, value: str) -> str:
        if (found := find_plain_secret(value)) is not None:
            raise ValueError(
                f"the address holds a secret in clear ({found}); keep it in the environment, write `$NAME`"
            )
        return value

    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Send one POST."""
        body = message.model_dump_json().encode()
        post_json(self.url, body, headers=self._signed(message.id, body), allowed=self.allow, timeout_s=self.timeout_s)

    def _signed(self, name: str, body: bytes) -> dict[str, str]:
        """The standard's headers."""
        at = str(int(time.time()))
        headers = {"webhook-id": name, "webhook-timestamp": at}
        if self.secret_env is None:
            return headers
        digest = hmac.digest(_key(self.secret_env), f"{name}.{at}.".encode() + body, hashlib.sha256)
        return {**headers, "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


def _key(variable: str) -> bytes:
    """The key: what follows `whsec_` is base64, any other text is the key itself."""
    secret = os.environ.get(variable)
    if not secret:
        raise DeliveryError(f"the environment has no variable {variable}")
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise DeliveryError(f"what {variable} holds after `whsec_` is no base64") from None
