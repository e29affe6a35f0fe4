"""What comes to the door: keys, limits, malformed bodies and heads. Each is answered rightly, and harms nobody else."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from luthier.core.artifact import Artifact
from luthier.core.db import Ledger
from luthier.core.errors import InputError
from luthier.serve.app import ExtraRoutes, build_app
from luthier.serve.auth import RequestLimits
from luthier.serve.engines.torch import TorchEngine
from luthier.serve.model_pool import ModelPool
from luthier.serve.openai.server import Gateway
from luthier.serve.server import ServerSettings, bind_socket
from luthier.traces.api_keys import KeyStore, add_key, revoke_key
from luthier.traces.feedback import feedback_routes
from serving import Served, serving

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
CHAT = "/v1/chat/completions"


@pytest.fixture
def guarded(tmp_path: Path, tiny: Artifact) -> Iterator[tuple[Served, Ledger]]:
    """A gateway with keys."""
    ledger = tmp_path / "ledger.db"
    with Ledger(ledger) as opened:
        add_key(opened, "first")
        with serving({"tiny": lambda: TorchEngine(dtype="float32").open(tiny)}, ledger) as served:
            yield served, opened


def eventually(check: Any, seconds: float = 10.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def raw(served: Served, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send bytes, and read whatever comes back until the other side closes."""
    found = b""
    with socket.create_connection((served.listening.host, served.listening.port), timeout=seconds) as line:
        line.sendall(data)
        try:
            while part := line.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
    return found


def test_health_is_told_to_anybody(served: Served) -> None:
    assert served.get("/health").json() == {"status": "ok"}
    assert served.get("/ready").json() == {"ready": True}
    assert served.get("/docs").status_code == 200
    assert "http" not in served.get("/docs").text.replace("http://", "", 0).split("<h1>")[0], "it loads nothing"
    assert b"luthier_requests_total" in served.get("/metrics").content


def test_nobody_comes_in_without_a_key(guarded: tuple[Served, Ledger]) -> None:
    served, _ = guarded
    for headers in (
        {},
        {"Authorization": "Bearer sk-wrong"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer"},
    ):
        response = served.post(CHAT, ASKED, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert served.get("/metrics").status_code == 401
    assert served.get("/openapi.json").status_code == 401
    assert served.get("/nothing").status_code == 401
    assert served.get("/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        served.client("lk-000000000000-" + "x" * 43).models.list()


def test_a_key_works_at_once_and_until_it_is_revoked(guarded: tuple[Served, Ledger]) -> None:
    served, ledger = guarded
    client = served.client(add_key(ledger, "bot"))

    def let_in() -> bool:
        try:
            return bool(client.models.list().data)
        except openai.AuthenticationError:
            return False

    eventually(let_in)
    client.chat.completions.create(**ASKED)
    assert served.heard.wait()[-1].key == "bot"
    revoke_key(ledger, "bot")
    eventually(lambda: not let_in())


def test_scopes_and_rates(guarded: tuple[Served, Ledger]) -> None:
    served, ledger = guarded
    tuner, slow = add_key(ledger, "tuner", ("tune",)), add_key(ledger, "slow", ("infer",), 3)
    eventually(lambda: served.get("/v1/models", headers={"Authorization": f"Bearer {slow}"}).status_code != 401)
    with pytest.raises(openai.PermissionDeniedError, match="'infer'"):
        served.client(tuner).chat.completions.create(**ASKED)
    answers = [served.get("/v1/models", headers={"Authorization": f"Bearer {slow}"}) for _ in range(4)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) in range(1, 21)
    assert answers[-1].json()["error"]["type"] == "rate_limit_error"
    assert served.heard.wait()[-1].status == 403, "refused ones leave a trace, too"


def test_keys_hold_while_the_database_is_away(guarded: tuple[Served, Ledger]) -> None:
    served, ledger = guarded
    key = add_key(ledger, "bot")
    eventually(lambda: served.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200)
    place = Path(served.ledger)
    for name in place.parent.glob("ledger.db*"):
        name.rename(name.parent / name.name.replace("ledger.db", "ledger.away"))
    place.mkdir()
    time.sleep(2.2)
    assert served.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert served.get("/v1/models").status_code == 401


def test_without_keys_it_answers_to_this_machines_names_only(served: Served) -> None:
    assert served.get("/v1/models", headers={"Host": "localhost"}).status_code == 200
    assert served.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403, "no rebinding of names"
    assert served.get("/v1/models", headers={"Host": "127.0.0.1.evil.example:80"}).status_code == 403
    response = httpx.post(
        f"{served.root}{CHAT}", content=json.dumps(ASKED), headers={"content-type": "text/plain"}, trust_env=False
    )
    assert response.status_code == 415, "what a page of another site may send without asking is not taken"


def test_it_does_not_listen_beyond_this_machine_without_a_key(tmp_path: Path) -> None:
    import asyncio

    from luthier.serve.auth import KeyStoreRefresher
    from luthier.serve.model_pool import ModelPool
    from luthier.serve.openai.server import Gateway
    from luthier.serve.server import run_gateway

    async def run(ledger: Ledger) -> None:
        gateway = Gateway(ModelPool(lambda word: pytest.fail("nothing is opened")))
        await run_gateway(
            gateway, ["x"], ServerSettings(host="0.0.0.0", port=0), KeyStoreRefresher(ledger), tell=lambda _: None
        )

    with Ledger(tmp_path / "ledger.db") as ledger, pytest.raises(InputError, match="can be reached from elsewhere"):
        asyncio.run(run(ledger))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"null", "JSON object"),
        (b"[" * 100_000, "deeper"),
        (b'{"a":' * 100_000, "deeper"),
        (b'{"model": ' + b"[" * 70 + b"]" * 70 + b"}", "deeper"),
        (b'{"model": NaN}', "no number"),
        (b'{"model": Infinity}', "no number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"model": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"model": "tiny", "messages": "hi"}', "messages: input should be a valid list"),
        (b'{"model": 5, "messages": []}', "model: input should be a valid string"),
        (b'{"messages": []}', "model: field required"),
        (b'{"model": "tiny", "messages": [{"role": "bot", "content": "hi"}]}', "messages[0].role: input should be"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stop": ["a", ""]}', "stop[1]: string"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bodies_that_make_no_sense(served: Served, body: bytes, says: str) -> None:
    response = served.post(CHAT, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_unknown_paths_and_verbs(served: Served) -> None:
    for response, status in (
        (served.get("/v1/nothing"), 404),
        (served.get(CHAT), 405),
        (served.post("/health", {}), 405),
        (served.get("/v1/models/a%2Fb%00c"), 404),
        (served.get("/v1/models/../../etc/passwd"), 404),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_what_was_meant_is_said_of_a_wrong_path_verb_or_model(served: Served) -> None:
    for response, says in (
        (served.post("/chat/completions", {}), "nothing at /chat/completions; did you mean /v1/chat/completions?"),
        (served.get("/"), "nothing at /; /docs tells what there is"),
        (served.get(CHAT), "expected POST /v1/chat/completions, got GET"),
        (served.post(CHAT, {**ASKED, "model": "tinny"}), "'tinny' is not served here; did you mean 'tiny'?"),
        (served.post(CHAT, {**ASKED, "model": "gpt-4"}), "'gpt-4' is not served here; known: "),
    ):
        assert says in response.json()["error"]["message"]


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("chunked", [False, True], ids=["length told", "chunked"])
def test_a_hundred_megabytes_are_refused_and_held_nowhere(served: Served, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000_000

    headers = {"content-type": "application/json"}
    if not chunked:
        headers["content-length"] = "100000000"
    before = peak_kb()
    response = httpx.post(f"{served.root}{CHAT}", content=parts(), headers=headers, timeout=60, trust_env=False)
    assert response.status_code == 413
    assert "4,000,000 bytes" in response.json()["error"]["message"]
    assert peak_kb() - before < 40_000
    assert served.post(CHAT, ASKED).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
    ],
    ids=["version", "tls", "name", "long", "many", "negative", "two lengths", "chunk"],
)  # fmt: skip
def test_malformed_heads_are_refused(served: Served, head: bytes) -> None:
    answer = raw(served, head, seconds=3)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert served.get("/health").status_code == 200


def test_strange_keys_and_hosts_in_bytes(served: Served) -> None:
    answer = raw(
        served,
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_body_that_dawdles_is_not_waited_for(tmp_path: Path, tiny: Artifact) -> None:
    models = {"tiny": lambda: TorchEngine(dtype="float32").open(tiny)}
    with serving(models, tmp_path / "ledger.db", limits=RequestLimits(body_wait_s=0.3)) as served:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = raw(served, head + b"Content-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408")
        assert served.post(CHAT, ASKED).status_code == 200


def test_heads_that_never_end_hold_no_place(tmp_path: Path, tiny: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.serve.server._HEAD_S", 1.0)
    models = {"tiny": lambda: TorchEngine(dtype="float32").open(tiny)}
    with serving(models, tmp_path / "ledger.db") as served:
        lines = [
            socket.create_connection((served.listening.host, served.listening.port), timeout=30) for _ in range(64)
        ]
        for line in lines:
            line.sendall(b"GET /v1/mod")
        assert served.post(CHAT, ASKED).status_code == 200
        for line in lines:
            assert line.recv(10) == b"", "it is closed"
            line.close()
        with served.client() as client:
            list(client.chat.completions.create(**{**ASKED, "max_tokens": 200}, stream=True))


def test_small_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY on sockets of this protocol only; without it, each answer waits 40 ms."""
    bound = bind_socket(ServerSettings(port=0))
    assert bound.proto == socket.IPPROTO_TCP
    bound.close()


def test_what_is_wrong_with_feedback_is_said_as_with_all_else() -> None:
    app = build_app(
        Gateway(ModelPool(lambda word: pytest.fail("nothing is opened"))),
        ring=lambda: KeyStore({}, required=False),
        extra_routes=ExtraRoutes(routers=[(feedback_routes(lambda said: pytest.fail("nothing is recorded")), "infer")]),
        hosts=None,
    )
    with TestClient(app) as client:
        for body, says in (
            ('{"id": "c-1"}', "says nothing: one of thumb, rating, label, correction, comment, types, spans is wanted"),
            ('{"id": "c-1", "thumb": "sideways"}', "thumb: input should be 'up' or 'down'"),
            ('{"id": "c-1", "rating": true}', "rating: expected a number from -1 to 1, got true"),
            ('{"thumb": "up"}', "id: field required"),
            (
                '{"id": "c-1", "thumb": "up", "by": "anna"}',
                "by: there is no such field here; /docs lists the fields",
            ),
            ("[]", "expected a JSON object"),
            ('{"id": ', "the body is no JSON: Expecting value"),
        ):
            answer = client.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["message"]) == (400, says)
