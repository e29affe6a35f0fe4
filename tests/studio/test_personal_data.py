"""Personal data on pages is masked; who has the right may see it, and that stands in the audit log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthier.commands.projects.personal_data import mask_text
from luthier.people.accounts import add_person
from luthier.people.audit import list_entries
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from studio.conftest import URL, Browser, copy_project, run_in

RECIPE = """\
luthier: 1
name: tickets
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}
    split: {test: 0.2}
    task: label
"""
ADDRESS = "anna.schmidt@example.org"


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "tickets"
    folder.mkdir()
    lines = [f"write to {ADDRESS} about parcel {at},{'a' if at % 2 else 'b'}" for at in range(20)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    run_in(folder.parent, "run", "tickets/recipe.yaml")
    return folder


@pytest.fixture
def prepared(_prepared: Path, workspace: Path) -> Path:
    return copy_project(_prepared, workspace)


def test_it_is_masked_until_somebody_with_the_right_asks(prepared: Path, studio: Studio) -> None:
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root")
    add_person(studio.ledger, "rita", roles={"tickets": "reviewer"}, by="olga")
    add_person(studio.ledger, "vera", roles={"tickets": "viewer"}, by="olga")
    browsers = {}
    for name in ("rita", "vera"):
        browsers[name] = Browser(build_app(studio), base_url=URL)
        browsers[name].cookies.set("luthier_studio", studio.sessions.start(name))
    page = browsers["vera"].get("/projects/tickets/data").text
    row = re.search(r'href="(/projects/tickets/data/data/rows/[0-9a-f]+)"', page)
    assert row
    for address in ("/projects/tickets/data", row[1]):
        for browser in browsers.values():
            masked = browser.get(address).text
            assert ADDRESS not in masked
            assert "[EMAIL]" in masked
            assert "Personal data is masked here" in masked
        refused = browsers["vera"].get(address, params={"unmasked": "true"})
        assert refused.status_code == 403
        assert ADDRESS not in refused.text
        assert 'name="unmasked"' not in browsers["vera"].get(address).text
        assert 'name="unmasked"' in browsers["rita"].get(address).text
        before = len(list_entries(studio.ledger))
        assert ADDRESS in browsers["rita"].get(address, params={"unmasked": "true"}).text
        entries = list_entries(studio.ledger)
        assert len(entries) == before + 1
        assert (entries[0].actor, entries[0].action) == ("rita", "personal_data.show")
        assert (entries[0].project, entries[0].subject) == ("tickets", address)


def test_what_is_recognised() -> None:
    assert mask_text(f"to {ADDRESS} now") == "to [EMAIL] now"
    assert mask_text("where is my parcel number 7") == "where is my parcel number 7"
    assert "[IBAN]" in mask_text("pay to DE89 3704 0044 0532 0130 00")
