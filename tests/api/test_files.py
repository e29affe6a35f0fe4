"""`/v1/files` by the official client, and by clients that mean ill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from fine_tuning import as_lines, chats
from luthier.commands.jobs import files
from luthier.commands.jobs.writing import link_or_copy_file
from tests.api.conftest import Open

DATA = as_lines(chats(4))


def form(*parts: tuple[str, bytes], end: bool = True, boundary: str = "edge") -> dict[str, Any]:
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    body += f"--{boundary}--\r\n".encode() if end else b""
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


FILE, PURPOSE = ('name="file"; filename="a.jsonl"', DATA), ('name="purpose"', b"fine-tune")


def test_a_file_comes_in_and_goes(place: Open) -> None:
    client = place.client()
    made = client.files.create(file=("töff.jsonl", DATA), purpose="fine-tune")
    assert (made.object, made.purpose, made.bytes, made.status) == ("file", "fine-tune", len(DATA), "processed")
    assert made.filename == "töff.jsonl"
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == DATA
    assert made in client.files.list().data
    assert client.files.wait_for_processing(made.id) == made
    assert client.files.delete(made.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file"):
            gone(made.id)
    assert not place.desk.files.path(made.id).exists()


def test_no_other_account_of_the_machine_reads_what_a_key_sent(place: Open, tmp_path: Path) -> None:
    made = place.client().files.create(file=("a.jsonl", DATA), purpose="fine-tune")
    assert place.desk.files.folder.stat().st_mode & 0o077 == 0
    link_or_copy_file(place.desk.files.path(made.id), tmp_path / "jobs" / "ftjob-1" / "training.jsonl")
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


def test_a_path_is_taken_as_a_file(place: Open, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(DATA)
    made = place.client().files.create(file=tmp_path / "rows.jsonl", purpose="fine-tune")
    assert made.filename == "rows.jsonl"


def test_files_are_listed_in_pages(place: Open) -> None:
    client = place.client("ben")
    made = [client.files.create(file=(f"{n}.jsonl", DATA), purpose="fine-tune").id for n in range(5)]
    assert [one.id for one in client.files.list(limit=2)] == made[::-1], "the client asks for page after page"
    assert [one.id for one in client.files.list(limit=2, order="asc")] == made
    page = client.files.list(limit=2, after=made[3])
    assert ([one.id for one in page.data], page.has_more) == ([made[2], made[1]], True)
    assert client.files.list(purpose="fine-tune-results").data == []
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "file-x"}, {"colour": "red"}):
        assert place.ask("GET", "/v1/files", "ben", params=wrong).status_code in (400, 404), wrong


def test_nobody_sees_the_files_of_another_key(place: Open) -> None:
    mine = place.client("anna").files.create(file=("a.jsonl", DATA), purpose="fine-tune").id
    for who in ("ben", "root"):
        client = place.client(who)
        for reach in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                reach(mine)
        assert mine not in [one.id for one in client.files.list()]
        assert place.ask("GET", "/v1/files", who, params={"after": mine}).status_code == 404
    with pytest.raises(openai.PermissionDeniedError, match="scope 'tune'"):
        place.client("reader").files.list()
    assert place.ask("GET", "/v1/files", headers={"authorization": "Bearer nobody"}).status_code == 401
    assert place.client("anna").files.retrieve(mine).id == mine


def test_a_file_expires(place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    made = client.files.create(
        file=("a.jsonl", DATA), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600
    monkeypatch.setattr(files, "datetime", _Later)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    place.desk.files.sweep()
    assert not place.desk.files.path(made.id).exists()


class _Later(files.datetime):  # type: ignore[name-defined,misc]
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return super().now(tz) + files.timedelta(seconds=3601)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no row"),
        (b"\n \n", "holds no row"),
        (DATA + b'{"messages": [}\n', "line 5: is no JSON"),
        (b"[1]\n", "line 1: is no JSON object"),
        (b'{"a": NaN}\n', "line 1: is no JSON"),
        (DATA + b"\xff\xfe{}\n", "line 5: is no UTF-8"),
        (b'{"a": "\\ud800"}\n', "line 1: a text holds half"),
        (b'{"a":' * 100 + b"1" + b"}" * 100 + b"\n", "line 1: the JSON is deeper"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b'{"a": "' + b"x" * (9 << 20) + b'"}\n', "line 1: is longer than 8 MiB"),
        ("\ufeff".encode() + DATA + b"7\n", "line 5: is no JSON object"),
    ],
    ids=["empty", "blank", "broken", "array", "nan", "bytes", "surrogate", "deep", "deeper", "long", "bom"],
)
def test_what_is_no_json_lines_is_refused_with_its_line(place: Open, data: bytes, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        place.client().files.create(file=("a.jsonl", data), purpose="fine-tune")


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals", "fine-tune-results", "x"])
def test_other_purposes_have_no_counterpart(place: Open, purpose: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        place.client().files.create(file=("a.jsonl", DATA), purpose=purpose)
    assert raised.value.param == "purpose"


def test_too_large_a_file_is_refused_and_leaves_nothing(place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 1 << 20)
    before = sorted(place.desk.files.folder.glob("*"))

    def pieces() -> Iterator[bytes]:
        told = form(('name="file"; filename="a"', b""), PURPOSE)["content"]
        head, _, tail = told.partition(b"\r\n\r\n")
        yield head + b"\r\n\r\n"
        for _ in range(64):
            yield DATA * 40
        yield tail

    head = {"content-type": "multipart/form-data; boundary=edge"}
    found = place.ask("POST", "/v1/files", content=pieces(), headers=head)
    assert (found.status_code, found.json()["error"]["code"]) == (413, "file_too_large")
    assert sorted(place.desk.files.folder.glob("*")) == before


def test_a_keys_files_have_room_together(place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    place.client("root").files.create(file=("a", DATA), purpose="fine-tune")
    monkeypatch.setattr(files, "KEY_BYTES", len(DATA) + 10)
    with pytest.raises(openai.APIStatusError) as raised:
        place.client("root").files.create(file=("b", DATA), purpose="fine-tune")
    assert raised.value.status_code == 413


def test_a_full_disk_is_said(place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SPARE_BYTES", 1 << 60)
    found = place.ask("POST", "/v1/files", **form(FILE, PURPOSE))
    assert (found.status_code, found.json()["error"]["type"]) == (507, "server_error")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (form(FILE, PURPOSE), 200),
        (form(PURPOSE, FILE), 200),
        (form(FILE), 400),
        (form(PURPOSE), 400),
        (form(), 400),
        (form(FILE, FILE, PURPOSE), 400),
        (form(FILE, PURPOSE, PURPOSE), 400),
        (form(FILE, PURPOSE, end=False), 400),
        (form(FILE, PURPOSE, ('name="colour"', b"red")), 400),
        (form(FILE, PURPOSE, ("", b"red")), 400),
        (form(FILE, ('name="purpose"', b"x" * 9000)), 400),
        (form(FILE, PURPOSE, *((f'name="n{n}"', b"") for n in range(20))), 400),
        (form((f'name="file"; filename="{"a" * 9000}"', DATA), PURPOSE), 400),
        (form(FILE, PURPOSE, ('name="expires_after[anchor]"', b"created_at")), 400),
        (form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"9" * 5000)), 400),
        ({"content": b"--edge", "headers": {"content-type": "multipart/form-data; boundary=edge"}}, 400),
        ({"content": b"no form", "headers": {"content-type": "multipart/form-data; boundary=edge"}}, 400),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 415),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=" + "x" * 400}}, 400),
        ({"json": {"file": "x", "purpose": "fine-tune"}}, 415),
        ({"content": b""}, 415),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_forms_of_all_kinds(place: Open, sent: dict[str, Any], status: int) -> None:
    found = place.ask("POST", "/v1/files", **dict(sent))
    assert found.status_code == status, found.text
    if status != 200:
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}
    assert not list(place.desk.files.folder.glob("*.part"))


def test_names_of_files_lead_nowhere(place: Open) -> None:
    client = place.client()
    for name in ("../../etc/passwd", "a\\b\\c.jsonl", "x" * 400, "\x00\n"):
        made = client.files.create(file=(name, DATA), purpose="fine-tune")
        assert "/" not in made.filename
        assert 0 < len(made.filename) <= 255
    for name in ("..", "%2e%2e%2fledger.db", "../ledger.db", "ledger.db", "x" * 99, "a%00b", "%ff%fe"):
        assert place.ask("GET", f"/v1/files/{name}/content").status_code in (400, 404)


def test_what_broken_uploads_left_is_swept(place: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    part = place.desk.files.folder / "x.part"
    part.parent.mkdir(parents=True, exist_ok=True)  # no upload may have made it yet
    part.write_bytes(b"half")
    place.desk.files.sweep()
    assert part.exists(), "it may still be coming in"
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 4000)
    place.desk.files.sweep()
    assert not part.exists()
