"""Messages as e-mail."""

from __future__ import annotations

import os
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from luthier.core.context import RunContext
from luthier.monitor.alerts import AlertMessage
from luthier.monitor.channel import Channel, DeliveryError

Address = Annotated[str, StringConstraints(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$")]


class Email(Channel):
    """Send by a mail server (SMTP); the message's id is the mail's, so that one sent twice shows once."""

    kind: Literal["email"] = "email"
    host: str = Field(min_length=1)
    """The mail server."""
    port: int = Field(default=587, ge=1, le=65535)
    """Its port: 587 with `starttls`, 465 with `tls`, 25 with `none`."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is secured; `none` only inside a network that you trust."""
    sender: Address
    """Whom it is from."""
    to: tuple[Address, ...] = Field(min_length=1)
    """Whom it goes to."""
    user: str | None = None
    """The name to log in with."""
    password_env: str | None = None
    """Name of the environment variable that holds the password."""
    timeout_s: float = Field(default=20.0, gt=0, le=120)
    """Seconds to wait for the server."""

    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Send one mail to all recipients."""
        password = self._password()
        try:
            with self._connected() as server:
                if self.security == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if self.user is not None:
                    server.login(self.user, password)
                server.send_message(self._mail(message))
        except (smtplib.SMTPException, OSError) as error:
            reason = f"{error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else type(error).__name__
            raise DeliveryError(f"{self.host}:{self.port} did not take the mail ({reason})") from None

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_s, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=self.timeout_s)

    def _password(self) -> str:
        if self.user is None:
            return ""
        password = os.environ.get(self.password_env or "")
        if not password:
            raise DeliveryError(f"the environment has no variable {self.password_env or '(name it in password_env)'}")
        return password

    def _mail(self, message: AlertMessage) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = " ".join(message.title.split())
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail["Date"] = format_datetime(message.at)
        mail["Message-ID"] = f"<{message.id}@{self.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text())
        return mail
