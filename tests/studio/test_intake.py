"""A new project from a database, from traffic, and for whatever is wanted of the model."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from luthier.commands.projects.intake import check_database_url
from luthier.core.errors import LuthierError
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from studio.conftest import Browser
from studio.test_attacks import BREAKS
from tests.traces.conftest import trace


def _database(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
        base.execute('CREATE TABLE "<b>odd" (id INTEGER)')
        rows = [(f"where is my parcel number {at}", "yes" if at % 2 else "no") for at in range(60)]
        base.executemany("INSERT INTO tickets (text, label) VALUES (?, ?)", rows)
    base.close()


def test_from_a_database_to_a_recipe(browser: Browser, workspace: Path) -> None:
    _database(workspace / "support.db")
    page = browser.submit("/new", name="mine", database="sqlite:///support.db")
    assert page.url.path == "/new/mine"
    assert "<option>tickets</option>" in page.text
    assert "&lt;b&gt;odd" in page.text
    assert browser.submit("/new/mine/table", table="nothing").status_code == 400
    page = browser.submit("/new/mine/table", table="tickets")
    assert "Looking at sqlite:///support.db (tickets)" in page.text
    seen = browser.get("/new/mine/proposal").text
    assert "luthier new mine --from sqlite:///support.db --table tickets" in seen
    assert "sqlite:///support.db" in browser.get("/").text
    page = browser.submit("/new/mine", shown="[]", technique="plain")
    assert page.url.path == "/projects/mine"
    source = Recipe.load(workspace / "mine/recipe.yaml").steps["data"].source  # type: ignore[attr-defined]  # a step `prepare`
    assert (source.kind, source.url, source.table) == ("sql", "sqlite:///../support.db", "tickets")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////etc/passwd", "sqlite:///../outside.db", "sqlite:///link.db", "sqlite://", "sqlite:///:memory:",
        "postgresql://u:secret@db.example.com/x", "postgresql://169.254.169.254/x", "postgresql://[fe80::1]/x",
        "postgresql://0.0.0.0/x", "postgresql://224.0.0.1/x", "postgresql://[::ffff:169.254.169.254]/x",
        "postgresql://100.100.100.200/x", "postgresql://metadata.inner/x", "postgresql:///x",
        "postgresql://h/x?host=169.254.169.254", "postgresql://h/x?hostaddr=169.254.169.254",
        "postgresql://h/x?passfile=/etc/passwd", "postgresql://h,169.254.169.254/x", "postgresql://%2Fvar%2Frun/x",
        "duckdb:///etc/passwd", "mysql+pymysql://h/x?read_default_file=/etc/passwd", "http://169.254.169.254/", "x",
        "$NOT_SET_HERE", "$INNER", "postgresql://$INNER_HOST/x",
    ],
)  # fmt: skip
def test_a_form_names_no_inner_address_and_no_file_outside(
    browser: Browser, workspace: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    _database(workspace.parent / "outside.db")
    (workspace / "link.db").symlink_to(workspace.parent / "outside.db")
    monkeypatch.setenv("INNER", "postgresql://u:hidden@169.254.169.254/x")
    monkeypatch.setenv("INNER_HOST", "169.254.169.254")
    found = socket.getaddrinfo

    def resolve(host: str, *more: Any, **words: Any) -> Any:
        return found("169.254.169.254" if host == "metadata.inner" else host, *more, **words)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    answer = browser.submit("/new", name="mine", database=url)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "hidden" not in answer.text.partition("role=")[2].partition("</div>")[0]
    assert not (workspace / "mine").exists()
    with pytest.raises(LuthierError):
        check_database_url(Workspace.open(workspace), url)


def test_a_password_is_named_and_never_kept(browser: Browser, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "very-secret")
    page = browser.submit("/new", name="mine", database="postgresql://reader:$DB_PASSWORD@127.0.0.1:1/x")
    assert page.status_code == 400
    assert "cannot be reached" in page.text
    assert "very-secret" not in page.text
    kept = (workspace / "mine/.luthier/upload.json").read_text()
    assert "$DB_PASSWORD" in kept
    assert "very-secret" not in kept


@pytest.mark.parametrize("words", BREAKS)
def test_addresses_are_shown_and_never_run(browser: Browser, workspace: Path, words: str) -> None:
    pages = [browser.submit("/new", name="mine", database=f"sqlite:///{words}", pasted="", traffic=words, where=words),
             browser.submit("/new", name="mine", traffic=words, where=words)]  # fmt: skip
    for page in pages:
        for bad in ("<script>a", "<img src=x", "<svg onload", "94011940119"):
            assert bad not in page.text


PAIRS = [{"prompt": f"a question {at}", "chosen": f"a good answer {at}", "rejected": f"bad {at}"} for at in range(40)]
FACTS = [
    {"text": f"Order {at} of Ann, {at} EUR", "output": json.dumps({"order": at, "name": "Ann", "sum": at})}
    for at in range(40)
]
LONG = "please could somebody tell me at once where the parcel number {} that was sent is"
SAME = [{"text": LONG.format(at), "output": LONG.format(at).capitalize() + "?"} for at in range(40)]
REPLIES = [
    {"question": f"what about the case number {at}", "answer": f"We looked into this matter {at} and solved it all"}
    for at in range(40)
]


@pytest.mark.parametrize(
    ("rows", "want", "parts"),
    [
        (PAIRS, "prefer", ("objective: dpo", "accuracy > base")),
        (FACTS, "extract", ("json_field_f1, json_valid", "with the keys order, name, sum", "json_field_f1 > base")),
        (SAME, "rewrite", ("chrf, rougeL", "chrf > base")),
        (REPLIES, "answer", ("rougeL, chrf", "rougeL > base")),
    ],
)
def test_what_fits_the_rows_is_chosen(
    browser: Browser, workspace: Path, rows: list[dict[str, Any]], want: str, parts: tuple[str, ...]
) -> None:
    browser.submit("/new", name="mine", pasted="".join(json.dumps(row) + "\n" for row in rows))
    seen = browser.get("/new/mine/proposal").text
    assert re.search(rf'value="{want}" checked', seen)
    costs = browser.get("/new/mine/costs").text
    assert "smollm2-135m-instruct" in costs
    browser.submit("/new/mine", shown="[]")
    text = (workspace / "mine/recipe.yaml").read_text()
    for part in parts:
        assert part in text
    Recipe.load(workspace / "mine/recipe.yaml")


def test_something_else_may_be_wanted(browser: Browser, workspace: Path) -> None:
    browser.submit("/new", name="mine", pasted="".join(json.dumps(row) + "\n" for row in REPLIES))
    seen = browser.get("/new/mine/proposal", params={"want": "rewrite"}).text
    assert "--want rewrite" in seen
    refused = browser.get("/new/mine/proposal", params={"want": "prefer"}).text
    assert "prefer none" in refused
    assert "Look at them as they are" in refused
    browser.submit("/new/mine", shown="[]", want="rewrite")
    assert "chrf > base" in (workspace / "mine/recipe.yaml").read_text()


@pytest.mark.parametrize("want", ["answer", "rewrite", "extract", "classify"])
def test_classes_may_be_learnt_as_texts(browser: Browser, workspace: Path, want: str) -> None:
    browser.submit("/new", name="mine", pasted="text,label\n" + "where is it,x\nwhat is it,y\n" * 20)
    seen = browser.get("/new/mine/proposal", params={"want": want}).text
    assert f'value="{want}" checked' in seen
    assert browser.submit("/new/mine", shown="[]", want=want).url.path == "/projects/mine"
    assert "answer: label" in (workspace / "mine/recipe.yaml").read_text()


def test_traffic_becomes_a_recipe(browser: Browser, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    assert "what a served model was asked" not in browser.get("/new").text
    assert browser.submit("/new", name="mine", traffic="nothing").status_code in (400, 404)
    said = [trace(number) for number in range(1, 40)]
    append_redacted_records(project / ".luthier/traffic", said)
    page = browser.get("/new").text
    assert "what a served model was asked" in page
    assert "<option>tickets</option>" in page
    wrong = browser.submit("/new", name="mine", traffic="tickets", where="<b> <")
    assert wrong.status_code == 400
    assert "&lt;b&gt;" in wrong.text
    page = browser.submit("/new", name="mine", traffic="tickets")
    assert page.url.path == "/projects/mine"
    source = Recipe.load(project.parent / "mine/recipe.yaml").steps["data"].source  # type: ignore[attr-defined]  # a step `prepare`
    assert source.kind == "traces"
