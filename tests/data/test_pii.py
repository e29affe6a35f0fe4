"""Personal data: found where it is, left alone where it only looks like it, and never kept in clear."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError, RecipeError
from luthier.data.operator import Operator
from luthier.data.ops.normalize import Normalize
from luthier.pii.accounts import is_luhn_valid
from luthier.pii.detect import find_pii
from luthier.pii.span import KINDS
from tests.linear import assert_linear

Make = Callable[..., Any]
Write = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("action", ["redact", "mask", "hash", "drop", "flag"])
def test_actions_and_events(make: Make, write: Write, action: str) -> None:
    rows = [
        {"text": f"Please mail {n % 2}@example.com  about it", "label": "ab"[n % 2], "who": "me@example.com"}
        for n in range(6)
    ]
    rows.append({"text": "nothing here", "label": "a", "who": "x"})
    path = write("t.jsonl", rows)
    ops = ["normalize", {"kind": "pii", "action": action}]
    made = make(source={"kind": "jsonl", "path": path, "prompt": "text", "answer": "label"}, ops=ops, split={"test": 0})
    assert "example.com" not in json.dumps(made.events.to_dicts())
    if action == "drop":
        assert made.summary.dropped == {"holds email": 6}
        return
    texts = " ".join(made.texts()) + " ".join(made.split("train")["meta"])
    assert ("example.com" in texts) == (action == "flag")
    assert made.attributes("pii")["email"].to_list() == [2] * 6 + [0]
    if action == "hash":
        tags = re.findall(r"\[EMAIL:[a-p]{10}\]", " ".join(made.texts()))
        assert (len(tags), len(set(tags))) == (6, 2)
    if action == "redact":
        assert made.texts()[0] == "Please mail [EMAIL] about it"


@pytest.mark.parametrize("action", ["redact", "mask", "hash", "pseudonymise", "drop", "flag"])
def test_names_of_nested_entries_are_looked_at_as_texts_are(make: Make, write: Write, action: str) -> None:
    """`{"jo@firm.test": 3}` once stayed as it is, and stood in the field names of events; no entry is lost."""
    owners = {"ann@firm.test": {"mail": "bob@firm.test", "cat@firm.test": 2}, "dan@firm.test": 4, "plain": 5}
    rows = [{"text": f"question {n}", "label": "ab"[n % 2], "owners": owners if n < 3 else {}} for n in range(6)]
    ops = [{"kind": "pii", "action": action}]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    made = make(source=source, ops=ops, split={"test": 0}, task="label")
    assert "firm.test" not in json.dumps(made.events.to_dicts())
    if action == "drop":
        assert made.summary.dropped == {"holds email": 3}
        return
    assert made.attributes("pii")["email"].to_list() == [4] * 3 + [0] * 3
    metas = [json.loads(meta)["owners"] for meta in made.split("train")["meta"]]
    assert ("firm.test" in str(metas)) == (action == "flag")
    assert metas[0]["plain"] == 5
    assert len(metas[0]) == 3
    assert sorted(len(one) for one in metas[0].values() if isinstance(one, dict)) == [2]
    if action == "redact":
        assert metas[0] == {"[EMAIL]": {"[EMAIL]": 2, "mail": "[EMAIL]"}, "[EMAIL] 2": 4, "plain": 5}


def test_the_last_look_reads_names_of_entries(make: Make, write: Write) -> None:
    rows = [{"text": f"question {n}", "label": "ab"[n % 2], "paid": {"4111 1111 1111 1111": n}} for n in range(6)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    with pytest.raises(DataError, match="card is left in the row"):
        make(source=source, ops=[{"kind": "pii", "action": "flag"}], split={"test": 0}, task="label")


def test_other_operators_events_hold_no_personal_data(make: Make, write: Write) -> None:
    """A repair inside an address would show it: its event is veiled, before and after."""
    row = {"text": "mail jo\u200bhn.doe@exa\u200bmple.com or <b>call +49 170 1234567</b> now", "label": "a"}
    path = write("t.jsonl", [row, {"text": "no", "label": "b"}])
    made = make(source={"kind": "jsonl", "path": path}, ops=["normalize", "pii"], split={"test": 0}, task="label")
    told = json.dumps(made.events.to_dicts())
    for clear in ("doe", "exa", "1234567", "170"):
        assert clear not in told
    assert made.texts()[0] == "mail [EMAIL] or call [PHONE] now"


def test_a_group_keeps_rows_together_without_telling(make: Make, write: Write) -> None:
    rows = [{"text": f"question {n}", "label": "ab"[n % 2], "who": f"c{n % 5}@example.com"} for n in range(40)]
    made = make(
        source={"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label", "group": "who"},
        ops=["pii"],
        split={"test": 0.4},
    )
    groups = {name: set(made.split(name)["group"]) for name in made.summary.rows}
    assert sum(len(one) for one in groups.values()) == 5
    assert "example" not in str(groups)


def test_kinds_may_have_their_own_action() -> None:
    operator = Operator.parse({"kind": "pii", "action": "flag", "actions": {"card": "mask"}})
    assert operator.settings()["actions"] == {"card": "mask"}


def test_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    operator = Operator.parse("pii")
    tag = operator.secrets(["jo@example.com"])[0][0].shown
    assert Operator.parse("pii").secrets(["JO@example.com"])[0][0].shown == tag
    monkeypatch.delenv("LUTHIER_PII_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = Operator.parse("pii")
    assert own.secrets(["jo@example.com"])[0][0].shown != tag
    assert own.fingerprint(tmp_path) == Operator.parse("pii").fingerprint(tmp_path) != operator.fingerprint(tmp_path)
    assert (tmp_path / "luthier" / "pii.key").stat().st_mode & 0o077 == 0
    with pytest.raises(RecipeError, match="NO_SUCH_KEY is not set"):
        Operator.parse({"kind": "pii", "key_env": "NO_SUCH_KEY"}).secrets(["jo@example.com"])


@given(st.integers(10**11, 10**15))
def test_luhn_finds_every_single_wrong_digit(number: int) -> None:
    digits = str(number)
    check = next(str(last) for last in range(10) if is_luhn_valid(digits + str(last)))
    whole = digits + check
    for place in range(len(whole)):
        changed = whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :]
        assert not is_luhn_valid(changed)


ADVERSARIAL = [
    "a",
    "1",
    "1 ",
    "a@",
    "@a.",
    "a.",
    "(1",
    "+1 ",
    "ab:",
    "1.",
    "1-",
    "DE89 ",
    "sk-",
    "eyJa.",
    "call me ",
    "http://a:",
    "-----BEGIN ",
    "=",
    "?token=",
    "<b",
    "&a",
    "0a:",
    "order a ",
]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Ten times the text may take about ten times as long; a quadratic search would take a hundred."""
    repair = Normalize()
    assert_linear(lambda text: (find_pii(text + "!"), repair.clean(text + "!")), piece, 6000)


def test_on_the_projects_own_tickets() -> None:
    """Tickets with planted data: every planted value of these kinds is found, and no look-alike."""
    folder = ROOT / "recipes" / "support"
    planted = json.loads((folder / "planted.json").read_text(encoding="utf-8"))
    with (folder / "tickets.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["ticket_id"]: row for row in csv.DictReader(file)}
    texts = {
        key: Normalize().clean("\n".join((row["subject"], row["message"], row["reply"]))) for key, row in rows.items()
    }
    found = {key: {one.text for one in find_pii(text)} for key, text in texts.items()}
    wanted = [one for one in planted["pii"] if one["kind"] in KINDS]
    missed = [one for one in wanted if not any(one["text"] in text for text in found[one["ticket_id"]])]
    counts = Counter(one["kind"] for one in wanted)
    assert counts.total() > 80
    assert [one for one in missed if one["kind"] != "address"] == []
    assert len(missed) <= 0.15 * counts["address"], "a house without a street is left to a recogniser"
    wrong = [one for one in planted["lookalikes"] if any(one["text"] in text for text in found[one["ticket_id"]])]
    assert wrong == []


@pytest.mark.data
def test_on_data_the_patterns_were_not_written_from(real_data: Path) -> None:
    names = {"EMAIL_ADDRESS": "email", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip", "US_SSN": "ssn"}
    rows = json.loads((real_data / "pii_synth_small" / "generated_large_600.json").read_text())
    wanted: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    extra: Counter[str] = Counter()
    for row in rows:
        found = {(one.kind, one.start) for one in find_pii(row["full_text"])}
        real = {
            (names[span["entity_type"]], span["start_position"])
            for span in row["spans"]
            if span["entity_type"] in names
        }
        wanted.update(kind for kind, _ in real)
        hit.update(kind for kind, _ in real & found)
        extra.update(kind for kind, _ in found - real if kind in names.values())
    for kind in names.values():
        assert hit[kind] >= 0.98 * wanted[kind] > 0, kind
        assert extra[kind] <= 0.02 * wanted[kind], kind
