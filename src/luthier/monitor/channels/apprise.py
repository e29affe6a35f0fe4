"""Messages to any of the hundred services that Apprise knows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.core.errors import InputError
from luthier.core.files import EnvVarMarker, expand_env_vars, is_env_var
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel, DeliveryError

_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


class Apprise(Channel):
    """Send by the library Apprise (extra `apprise`): Teams, Telegram, Matrix, ntfy, PagerDuty, Signal, SMS and more.

    Its addresses are those of https://appriseit.com; which hosts they reach, the library decides.
    """

    kind: Literal["apprise"] = "apprise"
    url: Annotated[str, Field(min_length=1), EnvVarMarker()]
    """Apprise's address of the service, as `tgram://…`; it is a secret, so write `$NAME`."""

    @field_validator("url")
    @classmethod
    def _hidden(cls, value: str) -> str:
        if not is_env_var(value):
            raise ValueError("Apprise's addresses hold secrets; keep it in the environment and write `$NAME`")
        return value

    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Send one notification."""
        try:
            import apprise
        except ImportError:
            raise DeliveryError("Apprise is not installed: pip install 'luthier[apprise]'") from None
        try:
            address = expand_env_vars(self.url)
        except InputError as error:
            raise DeliveryError(error.message) from None
        teller = apprise.Apprise()
        if not teller.add(address):
            raise DeliveryError("Apprise does not know such an address")
        kind = "success" if message.tells == "resolved" else _TYPES[message.severity]
        if not teller.notify(body="\n".join(list(message.lines())[1:]), title=message.title, notify_type=kind):
            raise DeliveryError("the service did not take the message")
