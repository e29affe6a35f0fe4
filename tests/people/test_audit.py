"""The audit log: whatever is changed in it is found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from luthier.core.db import Ledger
from luthier.core.errors import CorruptArtifact, InputError
from luthier.people.audit import list_entries, record_audit, verify_audit

TAMPERING = {
    "a word": "UPDATE audit_entries SET action = 'nothing' WHERE number = 3",
    "who": "UPDATE audit_entries SET actor = 'somebody' WHERE number = 3",
    "what": "UPDATE audit_entries SET details = '{}' WHERE number = 3",
    "when": "UPDATE audit_entries SET at = '2020-01-01 00:00:00' WHERE number = 3",
    "one taken out": "DELETE FROM audit_entries WHERE number = 3",
    "the last taken out": "DELETE FROM audit_entries WHERE number = 6",
    "the first taken out": "DELETE FROM audit_entries WHERE number = 1",
    "all taken out": "DELETE FROM audit_entries",
    "numbers": "UPDATE audit_entries SET number = 60 WHERE number = 6",
    "the head": "UPDATE audit_head SET number = 5",
    "no head": "DELETE FROM audit_head",
    "one put in": "INSERT INTO audit_entries SELECT 7, at, actor, action, project, subject, whom, details, before, "
    "digest FROM audit_entries WHERE number = 6",
}


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    for at in range(5):
        record_audit(ledger, "olga", "recipe.save", project="tickets", subject=f"/{at}\0", whom="eva", lines=at)
    return ledger


def test_entries_are_read_and_verified(filled: Ledger) -> None:
    assert verify_audit(filled).number == 6
    last = list_entries(filled, limit=2)
    assert [one.number for one in last] == [6, 5]
    assert (last[0].actor, last[0].action, last[0].whom, last[0].details) == (
        "olga",
        "recipe.save",
        "eva",
        {"lines": 4},
    )
    assert [one.number for one in list_entries(filled, before=3)] == [2, 1]
    assert len(list_entries(filled, person="eva")) == 5
    assert list_entries(filled, person="nobody") == []


@pytest.mark.parametrize("change", TAMPERING)
def test_tampering_is_found(filled: Ledger, change: str) -> None:
    with filled.writing() as session:
        assert session.execute(text(TAMPERING[change])).rowcount  # type: ignore[attr-defined]
    with pytest.raises(CorruptArtifact, match="of the audit log"):
        verify_audit(filled)


def test_a_head_that_was_noted_finds_a_log_that_was_made_anew(filled: Ledger) -> None:
    noted = str(verify_audit(filled))
    record_audit(filled, "olga", "run.start")
    assert verify_audit(filled, noted).number == 7
    with filled.writing() as session:
        session.execute(text("DELETE FROM audit_entries"))
        session.execute(text(f"UPDATE audit_head SET number = 0, digest = '{'0' * 64}'"))
    assert verify_audit(filled).number == 0
    with pytest.raises(CorruptArtifact, match="is missing"):
        verify_audit(filled, noted)
    for _ in range(7):
        record_audit(filled, "olga", "run.start")
    verify_audit(filled)
    with pytest.raises(CorruptArtifact, match="noted"):
        verify_audit(filled, noted)
    with pytest.raises(InputError):
        verify_audit(filled, "x")


def test_many_write_at_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda at: record_audit(ledger, f"person{at % 3}", "label"), range(30)))
    assert verify_audit(ledger).number == 31
