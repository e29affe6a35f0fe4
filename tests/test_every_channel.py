"""Every channel keeps a channel's promises, told by what really receives it: a mail server, web servers, files."""

from __future__ import annotations

import email
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.context import RunContext
from luthier.monitor.alerts import AlertMessage, WorstTrafficSlice
from luthier.monitor.channel import Channel, DeliveryError
from watching import free_port

ROOT = Path(__file__).parent.parent
CHANNELS = {kind: part for kind, part in components_by_kind(Channel).items() if part.__module__.startswith("luthier.")}
KINDS = sorted(CHANNELS)
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # imported by Apprise
SECRET = "whsec_" + "c2VjcmV0IG9mIG91cnM="
AT = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@dataclass
class Receiver:
    """A web server that keeps what it was sent."""

    port: int = 0
    status: int = 200
    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept.came.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(kept.status)
            if kept.status in (301, 302, 307):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Mailbox:
    """A mail server that keeps mails."""

    port: int
    mails: list[Any] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult, LoginPassword

    kept = Mailbox(free_port())

    class Sink:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
            kept.mails.append(email.message_from_bytes(envelope.content, policy=policy.default))
            return "250 OK"

    def authenticate(*given: Any) -> AuthResult:
        data: LoginPassword = given[-1]
        kept.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"right", handled=False)

    controller = Controller(
        Sink(),
        hostname="127.0.0.1",
        port=kept.port,
        authenticator=authenticate,
        auth_require_tls=False,
        auth_required=False,
    )
    controller.start()
    yield kept
    controller.stop()


def message(**more: Any) -> AlertMessage:
    told: dict[str, Any] = {
        "id": "m1",
        "tells": "firing",
        "monitor": "support",
        "alert": "wrong",
        "severity": "critical",
        "at": AT,
        "since": AT,
        "when": "accuracy < 0.9 on 200 labels",
        "number": "accuracy",
        "value": 0.81,
        "low": 0.75,
        "high": 0.86,
        "events": 200,
        "limit": 0.9,
        "worst": WorstTrafficSlice(column="product", value="<app> & shop", reading=0.6, events=50),
        "examples": ("r1", "r2"),
        "act": "luthier monitor show recipe.yaml",
    }
    return AlertMessage(**{**told, **more})


Told = Callable[[], list[str]]
"""The texts that were received so far."""


@dataclass
class Bench:
    """A channel, and what it reached."""

    channel: Channel
    told: Told


@pytest.fixture(params=KINDS)
def bench(
    request: pytest.FixtureRequest,
    receiver: Receiver,
    mailbox: Mailbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    kind = str(request.param)
    monkeypatch.setenv("HOOK", receiver.url)
    monkeypatch.setenv("SECRET", SECRET)
    bodies: Told = lambda: [body.decode() for _, _, body in receiver.came]  # noqa: E731
    if kind == "webhook":
        return Bench(
            Channel.parse({"kind": kind, "url": "$HOOK", "secret_env": "SECRET", "allow": ["127.0.0.1"]}), bodies
        )
    if kind == "slack":
        return Bench(Channel.parse({"kind": kind, "url": "$HOOK", "allow": ["127.0.0.1"]}), bodies)
    if kind == "apprise":
        pytest.importorskip("apprise")
        monkeypatch.setenv("HOOK", f"json://127.0.0.1:{receiver.port}/")
        return Bench(Channel.parse({"kind": kind, "url": "$HOOK"}), bodies)
    if kind == "email":
        settings = {"host": "127.0.0.1", "port": mailbox.port, "security": "none"}
        people = {"sender": "luthier@example.com", "to": ["ops@example.com", "lead@example.com"]}
        return Bench(
            Channel.parse({"kind": kind, **settings, **people}),
            lambda: [f"{mail['Subject']} {mail.get_content()}" for mail in mailbox.mails],
        )
    assert kind == "log", f"say here what receives a {kind}"
    path = tmp_path / "alerts.jsonl"
    return Bench(
        Channel.parse({"kind": kind, "path": "alerts.jsonl"}),
        lambda: path.read_text().splitlines() if path.exists() else [],
    )


def test_it_is_documented_and_its_settings_come_back(bench: Bench) -> None:
    member = type(bench.channel)
    assert member.summary()
    assert undescribed(member) == []
    assert Channel.parse(json.loads(json.dumps(bench.channel.settings()))) == bench.channel


def test_it_stands_in_the_reference(bench: Bench) -> None:
    page = (ROOT / "docs" / "reference" / "channel.md").read_text(encoding="utf-8")
    section = page.partition(f"## `{bench.channel.kind}`\n")[2].partition("\n## ")[0]
    assert type(bench.channel).summary() in section


@pytest.mark.parametrize("tells", ["firing", "resolved", "test"])
def test_a_message_arrives_with_what_matters(bench: Bench, tells: str, tmp_path: Path) -> None:
    bench.channel.send(message(tells=tells), RunContext(recipe_dir=tmp_path))
    (text,) = bench.told()
    for word in ("wrong", "support", "accuracy", "0.81", "r2", "luthier monitor show"):
        assert word in text


def test_odd_texts_arrive(bench: Bench, tmp_path: Path) -> None:
    bench.channel.send(
        message(monitor="süd\r\nBcc: x@example.com", explanation="日本語 🎻 <!channel>"),
        RunContext(recipe_dir=tmp_path),
    )
    (text,) = bench.told()
    assert "süd" in text or "s\\u00fcd" in text
    assert "🎻" in text or "\\ud83c\\udfbb" in text


def test_less_severe_alerts_are_not_told_where_they_are_not_wanted(bench: Bench) -> None:
    picky = bench.channel.model_copy(update={"severity": "critical"})
    assert [picky.wants(message(severity=one)) for one in ("info", "warning", "critical")] == [False, False, True]
    assert picky.wants(message(severity="info", tells="test"))


def test_a_settings_dump_holds_no_secret(bench: Bench) -> None:
    written = json.dumps(bench.channel.settings())
    assert SECRET not in written
    assert "127.0.0.1:" not in written.replace(f"127.0.0.1:{'x'}", "")


def webhook(receiver: Receiver, **more: Any) -> Channel:
    return Channel.parse({"kind": "webhook", "url": receiver.url, "allow": ["127.0.0.1"], **more})


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + "A" * 32])
def test_a_web_hook_is_signed_as_the_standards_own_library_checks(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    from standardwebhooks import Webhook, WebhookVerificationError

    monkeypatch.setenv("SECRET", secret)
    webhook(receiver, secret_env="SECRET").send(message(), RunContext(recipe_dir=tmp_path))
    (_, headers, body) = receiver.came[0]
    assert Webhook(secret).verify(body, headers)["alert"] == "wrong"
    assert headers["webhook-id"] == "m1"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"0.81", b"0.99"), headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://localhost/x",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
@pytest.mark.parametrize("kind", ["webhook", "slack"])
def test_private_addresses_are_refused(kind: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", url)
    channel = Channel.parse({"kind": kind, "url": "$HOOK"})
    with pytest.raises(DeliveryError, match=r"private network.*`allow`"):
        channel.send(message(), RunContext(recipe_dir=tmp_path))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com", "no url", "http://", "$NOT_SET", "http://exämple.com/"]
)
def test_addresses_that_are_none_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"https://|NOT_SET"):
        Channel.parse({"kind": "webhook", "url": url}).send(message(), RunContext(recipe_dir=tmp_path))


@pytest.mark.parametrize("status", [301, 307, 400, 404, 500, 503])
def test_any_answer_but_success_is_told_and_no_redirect_followed(
    receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.status = status
    with pytest.raises(DeliveryError, match=str(status)):
        webhook(receiver).send(message(), RunContext(recipe_dir=tmp_path))
    assert len(receiver.came) == 1


def test_an_error_does_not_tell_the_address(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{receiver.port}/services/T0/B0/verysecret")
    receiver.status = 403
    with pytest.raises(DeliveryError) as error:
        Channel.parse({"kind": "slack", "url": "$HOOK", "allow": ["127.0.0.1"]}).send(
            message(), RunContext(recipe_dir=tmp_path)
        )
    assert "verysecret" not in str(error.value)


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        slow = Channel.parse(
            {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "allow": ["127.0.0.1"], "timeout_s": 0.3}
        )
        with pytest.raises(DeliveryError, match=r"0\.3 s"):
            slow.send(message(), RunContext(recipe_dir=tmp_path))


def mail(mailbox: Mailbox, **more: Any) -> Channel:
    told = {
        "host": "127.0.0.1",
        "port": mailbox.port,
        "security": "none",
        "sender": "a@example.com",
        "to": ["b@example.com"],
    }
    return Channel.parse({"kind": "email", **told, **more})


def test_a_mail_bears_the_messages_id_and_goes_to_all(mailbox: Mailbox, tmp_path: Path) -> None:
    mail(mailbox, to=["b@example.com", "c@example.com"]).send(
        message(monitor="x\nBcc: evil@example.com"), RunContext(recipe_dir=tmp_path)
    )
    (came,) = mailbox.mails
    assert came["Message-ID"] == "<m1@example.com>"
    assert came["To"] == "b@example.com, c@example.com"
    assert came["Bcc"] is None
    assert came["Auto-Submitted"] == "auto-generated"


def test_a_mail_server_is_logged_in_to(mailbox: Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "right")
    mail(mailbox, user="me", password_env="MAIL_PASSWORD").send(message(), RunContext(recipe_dir=tmp_path))
    assert mailbox.logins == [("me", "right")]
    monkeypatch.setenv("MAIL_PASSWORD", "wrong")
    with pytest.raises(DeliveryError, match="535") as error:
        mail(mailbox, user="me", password_env="MAIL_PASSWORD").send(message(), RunContext(recipe_dir=tmp_path))
    assert "wrong" not in str(error.value).replace("wrong)", "")
    with pytest.raises(DeliveryError, match="NOT_SET"):
        mail(mailbox, user="me", password_env="NOT_SET").send(message(), RunContext(recipe_dir=tmp_path))


def test_a_mail_server_without_tls_is_refused_where_tls_is_wanted(mailbox: Mailbox, tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="did not take the mail"):
        mail(mailbox, security="starttls").send(message(), RunContext(recipe_dir=tmp_path))
    with pytest.raises(DeliveryError, match="did not take the mail"):
        mail(mailbox, security="tls", timeout_s=2).send(message(), RunContext(recipe_dir=tmp_path))
    assert mailbox.mails == []
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_a_log_file_holds_a_message_once_however_often_it_is_sent(tmp_path: Path) -> None:
    log = Channel.parse({"kind": "log", "path": "logs/alerts.jsonl"})
    for name in ("m1", "m2", "m1", "m2"):
        log.send(message(id=name), RunContext(recipe_dir=tmp_path))
    lines = (tmp_path / "logs" / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["m1", "m2"]


def test_the_programs_log_says_the_whole_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="luthier.monitor"):
        Channel.parse("log").send(message(), RunContext(recipe_dir=tmp_path))
    assert caplog.records[0].levelno == logging.CRITICAL
    assert "worst where product is <app> & shop: 0.6 of 50 events" in caplog.text


def test_slack_shows_signs_as_they_are(receiver: Receiver, tmp_path: Path) -> None:
    Channel.parse({"kind": "slack", "url": receiver.url, "allow": ["127.0.0.1"]}).send(
        message(), RunContext(recipe_dir=tmp_path)
    )
    told = json.loads(receiver.came[0][2])
    assert "&lt;app&gt; &amp; shop" in told["attachments"][0]["text"]
    assert told["attachments"][0]["color"] == "#c23030"


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/x"},
        {"kind": "apprise", "url": "tgram://123:token/42"},
        {"kind": "webhook", "url": "https://me:word@example.com/"},
        {"kind": "webhook", "url": "https://example.com/?token=abc"},
    ],
)
def test_a_secret_in_clear_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"\$NAME"):
        Channel.parse(settings)
