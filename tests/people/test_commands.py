"""`luthier people`, `luthier audit`, and what they change elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, text

from luthier.cli.app import run_command
from luthier.commands.people import PERSON_COLUMNS, open_people_ledger
from luthier.core.db import Ledger
from luthier.core.db.tables import load_table_metadata
from luthier.core.db.tables.annotation import JudgmentRow
from luthier.people.audit import verify_audit
from luthier.people.logins import log_in
from luthier.recipe.workspace import Workspace
from luthier.traces.api_keys import load_key_store
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Feedback
from luthier.traces.retention import traffic_folder
from luthier.traces.store import read_feedback
from people.conftest import PASSWORD

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a workspace; what it prints as JSON."""
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER", "LUTHIER_TRAFFIC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def command(*words: str, code: int = 0, password: str = PASSWORD) -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        capsys.readouterr()
        assert run_command([*words, "--json"]) == code, capsys.readouterr()
        return dict(json.loads(capsys.readouterr().out))

    return command


@pytest.fixture
def people(run: Run) -> Run:
    run("people", "add", "olga", "--owner", "--password-stdin")
    run("people", "add", "anna", "--role", "editor", "--project", "tickets", "--password-stdin")
    return run


def test_accounts_from_a_terminal(people: Run) -> None:
    found = {one["id"]: one["roles"] for one in people("people", "list")["people"]}
    assert found == {"anna": {"tickets": "editor"}, "olga": {"*": "owner"}}
    people("people", "role", "anna", "reviewer", "--project", "mail")
    people("people", "role", "anna", "none", "--project", "tickets")
    people("people", "password", "anna", "--password-stdin", password="another good password")
    found = {one["id"]: one["roles"] for one in people("people", "list")["people"]}
    assert found["anna"] == {"mail": "reviewer"}
    link = people("people", "invite", "--role", "viewer", "--url", "https://studio.example/")["link"]
    assert link.startswith("https://studio.example/invite/")
    people("people", "remove", "anna")
    people("people", "remove", "anna", code=2)
    people("people", "remove", "olga", code=2)
    people("people", "add", "eva", "--role", "boss", "--password-stdin", code=2)
    people("people", "add", "eva", "--password-stdin", code=2, password="short")
    with open_people_ledger(Workspace.open_current()) as ledger:
        log_in(ledger, "olga", PASSWORD, "")


def test_the_audit_log_from_a_terminal(people: Run) -> None:
    head = people("audit", "verify")["head"]
    people("people", "role", "anna", "viewer")
    actions = [one["action"] for one in people("audit", "show")["entries"]]
    assert actions == ["role.set", "person.add", "person.add"]
    assert len(people("audit", "show", "--person", "anna")["entries"]) == 2
    people("audit", "verify", "--expect", head)
    with open_people_ledger(Workspace.open_current()) as ledger, ledger.writing() as session:
        session.execute(text("DELETE FROM audit_entries WHERE number = 2"))
    assert "entry 2" in people("audit", "verify", code=2)["error"]["message"]


def test_keys_belong_to_people_and_stop_with_them(people: Run) -> None:
    key = people("keys", "add", "bot", "--person", "anna")["key"]
    people("keys", "add", "other", "--person", "nobody", code=2)
    assert people("keys", "list")["keys"][0]["owner"] == "anna"
    with open_people_ledger(Workspace.open_current()) as ledger:
        assert load_key_store(ledger).caller(key) is not None
        people("people", "remove", "anna")
        assert load_key_store(ledger).caller(key) is None
    actions = [one["action"] for one in people("audit", "show")["entries"]]
    assert "key.add" in actions


def test_keys_of_a_project_in_its_own_ledger_stop_too(
    people: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tickets").mkdir()
    (tmp_path / "tickets/recipe.yaml").write_text("luthier: 1\nname: tickets\nsteps: {}\n")
    monkeypatch.chdir(tmp_path / "tickets")
    key = people("keys", "add", "bot", "--person", "anna")["key"]
    monkeypatch.chdir(tmp_path)
    with Ledger(tmp_path / "tickets/.luthier/ledger.db") as ledger:
        assert load_key_store(ledger).caller(key) is not None
    people("people", "remove", "anna")
    with Ledger(tmp_path / "tickets/.luthier/ledger.db") as ledger:
        assert load_key_store(ledger).caller(key) is None


def _leave_traces(folder: Path) -> None:
    moment = datetime.now(UTC)
    with open_people_ledger(Workspace.open_current()) as ledger:
        log_in(ledger, "anna", PASSWORD, "")
        with ledger.writing() as session:
            for judge in ("anna", "olga"):
                session.add(JudgmentRow(assignment="a" * 64, item="1", judge=judge, value=1, comment="good", at=moment))
    given = [Feedback(trace=f"chatcmpl-{by == 'olga'}", timestamp=moment, by=by, rating=1.0) for by in ("anna", "olga")]
    append_redacted_records(folder, given)


def test_what_is_recorded_of_a_person_is_exported(people: Run, tmp_path: Path) -> None:
    _leave_traces(traffic_folder(tmp_path))
    rows = people("people", "export", "anna", "--to", "anna.json")["rows"]
    assert rows == {"people": 1, "roles": 1, "judgments": 1, "audit": 2, "feedback": 1}
    content = (tmp_path / "anna.json").read_text()
    assert "argon2" not in content
    assert json.loads(content)["judgments"][0]["comment"] == "good"
    people("people", "export", "nobody", "--to", "nobody.json", code=2)
    assert not (tmp_path / "nobody.json").exists()
    assert people("audit", "show")["entries"][0]["action"] == "person.export"


def test_a_person_is_erased_and_the_work_stays(people: Run, tmp_path: Path) -> None:
    _leave_traces(traffic_folder(tmp_path))
    people("keys", "add", "bot", "--person", "anna")
    erased = people("people", "erase", "anna", "--yes")
    with open_people_ledger(Workspace.open_current()) as ledger:
        verify_audit(ledger)
        with ledger.reading() as session:
            judges = set(session.scalars(text("SELECT judge FROM judgments")))
            for table in load_table_metadata().sorted_tables:
                if table.name != "keys":
                    assert "anna" not in str(session.execute(table.select()).all()), table.name
            owners = set(session.scalars(text("SELECT owner FROM keys")))
    assert judges == {"olga", erased["pseudonym"]}
    assert owners == {erased["pseudonym"]}
    assert {one.by for one in read_feedback(traffic_folder(tmp_path))} == judges
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix in (".parquet", ".jsonl"):
            assert b"anna" not in path.read_bytes(), path
    people("people", "erase", "anna", "--yes", code=2)
    people("people", "erase", "olga", "--yes", code=2)
    people("people", "add", "anna", "--role", "viewer", "--password-stdin")


def test_without_a_terminal_a_password_is_piped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["people", "add", "anna", "--owner"]) == 2
    assert "--password-stdin" in capsys.readouterr().err


def test_every_column_that_names_a_person_is_exported_and_erased() -> None:
    """A column of another name that says who did something has to be added to `PERSON_COLUMNS`."""
    others = {
        f"{table.name}.{column.name}"
        for table in load_table_metadata().sorted_tables
        for column in table.columns
        if isinstance(column.type, String) and column.name not in PERSON_COLUMNS
        and ("_by" in column.name or column.name in ("user", "who", "actor", "whom", "assignee", "rater", "labeller"))
    }  # fmt: skip
    assert others == {"audit_entries.actor", "audit_entries.whom"}, "these are references, not names"
