"""Mailboxes, Slack and tickets become conversations: who answers is guessed and said, nothing is lost in silence."""

from __future__ import annotations

import gzip
import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.columns.conversations import ThreadMessage, ThreadParticipants, build_conversation, guess_support_team
from luthier.data.columns.recognize import recognize_path_source_kind
from luthier.data.formats.slack import SlackUser, strip_slack_markup
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Source
from luthier.data.suggest.propose import propose_recipe
from tests.data.source_files import MAKERS, TICKETS, as_mail, slack_export
from tests.linear import assert_quick


def _read(settings: dict[str, Any], base: Path) -> tuple[list[SourceRecord], list[BrokenRow], list[str]]:
    said: list[str] = []
    found = list(Source.parse(settings).read(base, said.append))
    return (
        [one for one in found if isinstance(one, SourceRecord)],
        [one for one in found if isinstance(one, BrokenRow)],
        said,
    )


def _contents(record: SourceRecord) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in record.values["messages"]]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", " "])), max_size=8))
def test_turns_alternate_and_every_speech_is_kept_or_counted(said: list[tuple[bool, str]]) -> None:
    talk = build_conversation(ThreadMessage("", text, is_support=desk) for desk, text in said)
    roles = [turn["role"] for turn in talk.messages]
    assert all(one != other for one, other in pairwise(roles))
    spoken = sum(len(turn["content"].split("\n\n")) for turn in talk.messages)
    assert spoken + talk.left_out == sum(bool(text.strip()) for _, text in said)
    if "assistant" in roles[1:]:
        assert roles[0] == "user"
        assert roles[-1] == "assistant"


def test_the_desk_is_who_answers_most_threads_that_others_began() -> None:
    ann, bob, desk, other = "ann@x.example", "bob@y.example", "desk@shop.example", "sam@shop.example"
    one = [ThreadParticipants(ann, frozenset({desk, ann})), ThreadParticipants(bob, frozenset({desk, ann}))]
    assert guess_support_team(one) == (desk,)
    assert guess_support_team([*one, ThreadParticipants(ann, frozenset({other}))]) == ("@shop.example",)
    assert guess_support_team([ThreadParticipants(ann, frozenset({"me@gmail.com", "you@gmail.com"}))] * 3) == (
        "me@gmail.com",
    )
    assert guess_support_team([ThreadParticipants(desk, frozenset({desk}))]) == ()
    assert guess_support_team([]) == ()


QUOTED = "Yes.\n\nOn Mon, 3 Feb 2025 at 10:00, Ann <ann@x.example> wrote:\n> Is it on?\n"


def _box(*mails: str) -> bytes:
    return "".join(mails).encode()


def test_threads_by_reference_by_subject_and_in_order_of_time(tmp_path: Path) -> None:
    box = _box(
        as_mail("Ann <Ann@X.example>", "Lamp", "<1@x>", "", "Is it on?", minute=5),
        as_mail("bob@y.example", "Desk", "<2@y>", "", "It wobbles.", minute=6),
        as_mail("desk@shop.example", "Re: Lamp", "<4@s>", "<1@x>", QUOTED, minute=9),
        as_mail("ann@x.example", "AW: Re: Lamp", "<3@x>", "<4@s>", "Thanks!", minute=20),
        as_mail("ann@x.example", "Re: Lamp", "<5@x>", "<1@x>", "Hello?", minute=7),
        as_mail("desk@shop.example", "Re: Desk", "<6@s>", "", "Tighten it.", minute=30),
    )
    (tmp_path / "box").write_bytes(box)
    assert recognize_path_source_kind("box", tmp_path) == "mbox"
    records, broken, said = _read({"kind": "mbox", "path": "box"}, tmp_path)
    assert broken == []
    assert "desk@shop.example" in said[0]
    assert _contents(records[0]) == [("user", "Is it on?\n\nHello?"), ("assistant", "Yes.")]
    assert _contents(records[1]) == [("user", "It wobbles."), ("assistant", "Tighten it.")]
    assert records[0].values["left_out"] == 1
    assert (records[0].values["started_by"], records[0].values["mails"]) == ("ann@x.example", 4)
    kept, _, said = _read(
        {"kind": "mbox", "path": "box", "quoted": "keep", "support_team": ["@SHOP.example"]}, tmp_path
    )
    assert "> Is it on?" in _contents(kept[0])[1][1]
    assert said == []
    (tmp_path / "box.mbox.gz").write_bytes(gzip.compress(box))
    assert _read({"kind": "mbox", "path": "box.mbox.gz"}, tmp_path)[0][0].values == records[0].values


def test_a_mailbox_without_answers_keeps_its_rows_for_the_books(tmp_path: Path) -> None:
    (tmp_path / "box.mbox").write_bytes(_box(as_mail("a@x.example", "Hi", "<1>", "", "Hello?")))
    records, _, said = _read({"kind": "mbox", "path": "box.mbox"}, tmp_path)
    assert _contents(records[0]) == [("user", "Hello?")]
    assert "set `support_team`" in said[0]


def test_mails_as_they_come(tmp_path: Path) -> None:
    html = "Content-Type: text/html; charset=utf-8\n"
    latin = "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n"
    odd = "Content-Type: text/plain; charset=klingon\n"
    page = "<p>It <b>broke</b>.</p><script>alert(1)</script><blockquote>old</blockquote>"
    mixed = (
        'Content-Type: multipart/mixed; boundary="b"\n',
        "--b\nContent-Type: text/plain\n\nSee it.\n--b\nContent-Type: image/png\n"
        "Content-Disposition: attachment; filename=a.png\n\nAAAA\n--b--\n",
    )
    (tmp_path / "box.mbox").write_bytes(
        _box(
            as_mail("a@x.example", "=?utf-8?b?R3LDvMOfZQ==?=", "<1>", "", page, more=html),
            as_mail("a@x.example", "two", "<2>", "", "Gr=FC=DFe", more=latin),
            as_mail("a@x.example", "three", "<3>", "", "hello", more=odd),
            as_mail("a@x.example", "four", "<4>", "", mixed[1], more=mixed[0]),
            as_mail("a@x.example", "five", "<5>", "", ">From here on\nFrom me\n\nFrom: you"),
            "From nobody\n\n\n",
            "From half\nSubject: x",
        )
    )
    records, broken, _ = _read({"kind": "mbox", "path": "box.mbox", "support_team": ["d@x"]}, tmp_path)
    texts = [_contents(record)[0][1] if record.values["messages"] else "" for record in records]
    assert texts[:4] == ["It broke.", "Grüße", "hello", "See it."]
    assert texts[4] == "From here on\nFrom me\n\nFrom: you"
    assert records[0].values["subject"] == "Grüße"
    assert records[3].values["attachments"] == 1
    assert len(records) + len(broken) == 7


def test_a_large_mailbox_is_threaded_in_linear_time(tmp_path: Path) -> None:
    mails = [as_mail("a@x.example", f"Re: {n}", f"<{n}>", f"<{n - 1}>" if n else "", "x") for n in range(4000)]
    (tmp_path / "box.mbox").write_bytes(_box(*mails))

    def read() -> None:
        records, _, _ = _read({"kind": "mbox", "path": "box.mbox", "support_team": ["d@x"]}, tmp_path)
        assert [record.values["mails"] for record in records] == [4000]

    assert_quick(read, 15)


def _zip_of(path: Path, content: dict[str, Any], top: str = "") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(top + name, json.dumps(value))


@pytest.mark.parametrize("top", ["", "Acme Slack export/"])
def test_slack_folder_and_zip_give_the_same(tmp_path: Path, top: str) -> None:
    export = slack_export()
    export["help/2025-02-04.json"] = [
        {"type": "message", "user": "U1", "text": "Still broken &amp; <@U2> <https://x.example|see>", "ts": "90.1"},
        {"type": "message", "subtype": "channel_join", "user": "U1", "text": "<@U1> joined", "ts": "91.0"},
        {"type": "message", "user": "U1", "text": "late thanks", "ts": "92.0", "thread_ts": "00.1"},
    ]
    _zip_of(tmp_path / "export.zip", export, top)
    for name, value in export.items():
        (tmp_path / "export" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "export" / name).write_text(json.dumps(value))
    assert (
        recognize_path_source_kind("export.zip", tmp_path) == recognize_path_source_kind("export", tmp_path) == "slack"
    )
    zipped, _, said = _read({"kind": "slack", "path": "export.zip"}, tmp_path)
    folder, _, _ = _read({"kind": "slack", "path": "export"}, tmp_path)
    assert [record.values for record in zipped] == [record.values for record in folder]
    assert "taken to be Bob" in said[0]
    assert "1 notices" in said[1]
    assert len(zipped) == 4
    assert zipped[0].values["left_out"] == 1
    assert _contents(zipped[3]) == [("user", "Still broken & @Bob see (https://x.example)")]
    named, _, said = _read(
        {"kind": "slack", "path": "export", "support_team": ["ann@x.example"], "channels": ["#help"]}, tmp_path
    )
    assert _contents(named[0])[0] == ("user", "Try again.")
    with pytest.raises(DataError, match="nobody is called 'Bop'"):
        _read({"kind": "slack", "path": "export", "support_team": ["Bop"]}, tmp_path)
    with pytest.raises(DataError, match="no channel 'halp'"):
        _read({"kind": "slack", "path": "export", "channels": ["halp"]}, tmp_path)


def test_a_broken_day_of_slack_is_one_broken_row(tmp_path: Path) -> None:
    _zip_of(tmp_path / "export.zip", slack_export())
    with zipfile.ZipFile(tmp_path / "export.zip", "a") as archive:
        archive.writestr("help/2025-02-05.json", "[{")
    records, broken, _ = _read({"kind": "slack", "path": "export.zip"}, tmp_path)
    assert len(records) == 3
    assert [(one.file, "is not JSON" in one.problem) for one in broken] == [("export.zip/help/2025-02-05.json", True)]


def test_a_member_of_slack_that_climbs_is_refused(tmp_path: Path) -> None:
    _zip_of(tmp_path / "export.zip", {**slack_export(), "../2025-02-05.json": []})
    records, broken, _ = _read({"kind": "slack", "path": "export.zip"}, tmp_path)
    assert len(records) == 3
    assert ["leads out of the archive" in one.problem for one in broken] == [True]


@pytest.mark.parametrize("piece", ["<", "<a|", "<@", "&", "<<>"])
def test_marks_of_slack_are_read_in_linear_time(piece: str) -> None:
    assert_quick(lambda: strip_slack_markup(piece * 200_000, {"U1": SlackUser("Ann", frozenset())}), 3)


def test_tickets_of_zendesk_in_all_their_forms(tmp_path: Path) -> None:
    more = {
        "id": 9,
        "subject": "late",
        "requester": {"id": 1},
        "tags": ["a"],
        "comments": [
            {"author_id": 2, "author": {"role": "agent"}, "html_body": "<p>On its way</p>", "created_at": "2025-02-02"},
            {"author_id": 1, "body": "Where is it?", "created_at": "2025-02-01"},
            {"author_id": 2, "body": "he is angry", "public": False, "created_at": "2025-02-03"},
        ],
    }
    tickets = [*TICKETS, more, {"id": 10, "requester_id": 1, "comments": "none"}]
    (tmp_path / "a.json").write_text(json.dumps(tickets))
    (tmp_path / "b.json").write_text(json.dumps({"tickets": tickets, "users": [{"id": 1}], "count": 5}))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(one) + "\n" for one in tickets))
    for name in ("a.json", "b.json", "c.jsonl"):
        assert recognize_path_source_kind(name, tmp_path) == "zendesk"
        records, broken, _ = _read({"kind": "zendesk", "path": name}, tmp_path)
        assert _contents(records[3]) == [("user", "Where is it?"), ("assistant", "On its way")]
        assert (records[3].values["tags"], records[3].values["requester_id"]) == (["a"], 1)
        assert len(records) == 4
        assert [one.field for one in broken] == ["comments"]
    kept, _, _ = _read({"kind": "zendesk", "path": "a.json", "notes": "keep"}, tmp_path)
    assert kept[3].values["notes"] == ["he is angry"]


def test_tickets_without_comments_say_what_to_export_instead(tmp_path: Path) -> None:
    private = [{"author_id": 2, "body": "he is angry", "public": False}]
    rows: list[dict[str, Any]] = [{"id": 1, "comments": []}, {"id": 2}, {"id": 3, "comments": private}]
    tickets = [*TICKETS, *({"requester_id": 1, **row} for row in rows)]
    (tmp_path / "a.json").write_text(json.dumps(tickets))
    _, broken, _ = _read({"kind": "zendesk", "path": "a.json"}, tmp_path)
    assert [one.problem for one in broken] == [
        "the ticket came without its comments",
        "the ticket came without its comments",
        "no comment of the ticket is public",
    ]
    assert "full JSON export" in propose_recipe(tmp_path / "a.json").reasons["source.on_error"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("mbox", "threads of a mailbox"), ("slack", "threads of a Slack export"), ("zendesk", "tickets with comments")],
)
def test_what_was_given_is_called_by_its_name(tmp_path: Path, kind: str, words: str) -> None:
    settings, _, _ = MAKERS[kind](tmp_path)
    assert propose_recipe(tmp_path / settings["path"]).reasons["source.messages"] == f"recognised as {words}"
    said: list[str] = []
    list(Source.parse(settings).mapped(tmp_path, said.append))
    assert any(text.endswith(f": read as {words}") for text in said)
    assert not any("OpenAI" in text for text in said)
