"""Data sets of a small hub of our own on the loopback: files of a split, by the card or by their names."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from luthier.core.errors import DataError
from luthier.data.row import Record
from luthier.data.source import Source
from tests.data.source_files import HUB_COMMIT


class FakeHub(BaseHTTPRequestHandler):
    """What a revision of a data set holds, and its files."""

    place: ClassVar[Path]
    asked: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        files = sorted(one for one in self.place.rglob("*") if one.is_file())
        api, resolve = "/api/datasets/acme/rows", f"/datasets/acme/rows/resolve/{HUB_COMMIT}/"
        if path in (f"{api}/revision/main", f"{api}/revision/{HUB_COMMIT}"):
            names = [{"rfilename": one.relative_to(self.place).as_posix()} for one in files]
            self._send(200, json.dumps({"id": "acme/rows", "sha": HUB_COMMIT, "siblings": names}).encode(), body=body)
        elif path.startswith(f"{api}/tree/{HUB_COMMIT}"):
            self._send(200, json.dumps([self._row(one) for one in files]).encode(), body=body)
        elif path.startswith(resolve):
            data = (self.place / path.removeprefix(resolve)).read_bytes()
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self._send(200, data, {"ETag": etag, "X-Repo-Commit": HUB_COMMIT}, body=body)
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
    FakeHub.place = tmp_path / "published"
    FakeHub.asked.clear()
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl", "extra/other.csv", "script.py"):
        (FakeHub.place / name).parent.mkdir(parents=True, exist_ok=True)
        row = "text,label\nother,x\nmore,y\n" if name.endswith(".csv") else json.dumps({"text": name}) + "\n"
        (FakeHub.place / name).write_text(row)
    (FakeHub.place / "README.md").write_text("# A card\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    yield FakeHub
    server.shutdown()
    thread.join()
    server.server_close()


def _texts(base: Path, **settings: Any) -> list[str]:
    source = Source.parse({"kind": "hub", "name": "acme/rows", "online": True, **settings})
    return [one.values["text"] for one in source.read(base, lambda text: None) if isinstance(one, Record)]


def test_a_split_by_the_names_of_its_files(hub: type[FakeHub], tmp_path: Path) -> None:
    assert _texts(tmp_path) == ["train-0.jsonl", "train-1.jsonl"]
    assert _texts(tmp_path, split="test") == ["test.jsonl"]
    with pytest.raises(DataError, match="no file is of the split 'dev'") as caught:
        _texts(tmp_path, split="dev")
    assert "train-0.jsonl" in caught.value.remedy
    assert not any("script.py" in one for one in hub.asked if "/resolve/" in one)


def test_a_split_by_the_card(hub: type[FakeHub], tmp_path: Path) -> None:
    (hub.place / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files:\n  - {split: train, path: 'train-1*'}\n"
        "- config_name: two\n  data_dir: extra\n  data_files: {train: ['*.csv']}\n---\n# A card\n"
    )
    assert _texts(tmp_path, subset="one") == ["train-1.jsonl"]
    assert _texts(tmp_path, subset="two") == ["other", "more"]
    with pytest.raises(DataError, match="several subsets"):
        _texts(tmp_path)
    with pytest.raises(DataError, match="no subset 'three'"):
        _texts(tmp_path, subset="three")


def test_offline_is_the_default_and_asks_nobody(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not in the local hub cache") as caught:
        _texts(tmp_path, online=False)
    assert "online: true" in caught.value.remedy
    source = Source.parse({"kind": "hub", "name": "acme/rows", "online": True})
    assert source.glance(tmp_path) == []
    assert source.size(tmp_path) is None
    assert hub.asked == []
    _texts(tmp_path)
    hub.asked.clear()
    assert _texts(tmp_path, online=False) == ["train-0.jsonl", "train-1.jsonl"]
    assert source.size(tmp_path)
    assert hub.asked == []


def test_what_the_hub_does_not_have_is_said(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the hub has no data set 'acme/none'"):
        _texts(tmp_path, name="acme/none")
