"""Messages as chat programs take them from a hook: Slack, Mattermost, Rocket.Chat, Discord's `/slack` hooks."""

from __future__ import annotations

import json
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from luthier.core.context import RunContext
from luthier.core.files import EnvVarMarker, is_env_var
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel, post_json

_COLOURS = {"info": "#3b7dd8", "warning": "#d9822b", "critical": "#c23030"}
_OVER = "#2f9e5b"


class SlackChannel(Channel):
    """Send to an incoming hook of Slack or of a program that takes the same JSON."""

    kind: Literal["slack"] = "slack"
    url: Annotated[str, Field(min_length=1), EnvVarMarker()]
    """The hook's address; it is a secret, so write `$NAME` and keep it in the environment."""
    allow: tuple[str, ...] = ()
    """Hosts that may be told although they are private, as a Mattermost of your own."""
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Seconds to wait for an answer."""

    @field_validator("url")
    @classmethod
    def _hidden(cls, value: str) -> str:
        if not is_env_var(value) and urlsplit(value).path.strip("/"):
            raise ValueError("a hook's address is a secret; keep it in the environment and write `$NAME`")
        return value

    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Send one POST; mark-up in the text is escaped."""
        lines = [_plain(line) for line in message.lines()]
        colour = _OVER if message.tells == "resolved" else _COLOURS[message.severity]
        body = {
            "text": lines[0],
            "attachments": [{"color": colour, "text": "\n".join(lines[1:]), "fallback": lines[0]}],
        }
        post_json(self.url, json.dumps(body).encode(), allowed=self.allow, timeout_s=self.timeout_s)


def _plain(text: str) -> str:
    """Text whose signs mean themselves (Slack's three escapes)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
