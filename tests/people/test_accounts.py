"""Accounts, roles, invitations and logins, on SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from luthier.core.db import Ledger
from luthier.core.db.tables.people import InvitationRow, LoginAttemptRow, PersonRow
from luthier.core.errors import InputError, LuthierError, UnknownName
from luthier.people import logins, passwords
from luthier.people.accounts import add_person, find_account, list_accounts, remove_person, set_password, set_role
from luthier.people.invitations import (
    accept_invitation,
    create_invitation,
    find_invitation,
    join_projects,
    list_invitations,
    withdraw_invitation,
)
from luthier.people.logins import LoginRefused, TooManyLogins, log_in
from luthier.people.rights import ALLOWED, Person
from luthier.traces.api_keys import add_key, load_key_store
from people.conftest import PASSWORD


@pytest.fixture(autouse=True)
def _long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait outlasts a busy machine."""
    monkeypatch.setattr(logins, "_ACCOUNT", logins._ACCOUNT._replace(least_s=50.0))
    monkeypatch.setattr(logins, "_ADDRESS", logins._ADDRESS._replace(least_s=50.0))


def test_rights_by_role_and_project() -> None:
    person = Person("a", "a", {"tickets": "editor", "mail": "viewer"})
    assert person.may("edit", "tickets")
    assert not person.may("edit", "mail")
    assert not person.may("view")
    assert person.may_somewhere("edit")
    assert person.projects_with("view", ["tickets", "mail", "other"]) == ["tickets", "mail"]
    assert Person("a", "a", {"*": "viewer"}).may("view", "whatever")
    assert ALLOWED["labeller"] == {"label"}
    assert not Person("a", "a").may_somewhere("view")


def test_the_first_is_an_owner_and_the_last_owner_stays(database: str) -> None:
    with Ledger(database) as ledger:
        with pytest.raises(InputError, match="first account"):
            add_person(ledger, "eva", roles={"*": "editor"}, by="root", password=PASSWORD)
        with pytest.raises(InputError, match="no accounts"):
            create_invitation(ledger, "viewer", by="root")
        add_person(ledger, "olga", roles={"*": "owner"}, by="root", password=PASSWORD)
        for change in (
            lambda: set_role(ledger, "olga", "viewer", ["*"], by="olga"),
            lambda: set_role(ledger, "olga", None, ["*"], by="olga"),
            lambda: remove_person(ledger, "olga", by="olga"),
        ):
            with pytest.raises(InputError, match="last owner"):
                change()


@pytest.mark.parametrize("name", ["", "Anna Schmidt", "a" * 65, "<b>", "-a", "a/b", "a\0"])
def test_names_are_plain(ledger: Ledger, name: str) -> None:
    with pytest.raises(InputError, match="expected a name"):
        add_person(ledger, name, roles={}, by="olga", password=PASSWORD)


@pytest.mark.parametrize("password", ["short", "anna.schmidt", "aaaaaaaaaaaa", "x" * 2000])
def test_passwords_that_are_guessed_are_refused(ledger: Ledger, password: str) -> None:
    with pytest.raises(InputError, match="password"):
        add_person(ledger, "anna.schmidt", roles={}, by="olga", password=password)


def test_a_removed_name_is_not_given_again_and_its_keys_stop(ledger: Ledger) -> None:
    add_person(ledger, "anna", roles={"tickets": "editor"}, by="olga", password=PASSWORD)
    key = add_key(ledger, "bot", owner="anna")
    assert load_key_store(ledger).caller(key) is not None
    remove_person(ledger, "anna", by="olga")
    assert load_key_store(ledger).caller(key) is None
    assert [one.id for one in list_accounts(ledger)] == ["olga"]
    assert [one.id for one in list_accounts(ledger, removed=True)] == ["anna", "olga"]
    with pytest.raises(LoginRefused):
        log_in(ledger, "anna", PASSWORD, "1.2.3.4")
    with pytest.raises(InputError, match="or was"):
        add_person(ledger, "anna", roles={}, by="olga", password=PASSWORD)
    with pytest.raises(UnknownName):
        find_account(ledger, "anna")


def test_logging_in(ledger: Ledger) -> None:
    assert log_in(ledger, " Olga ", PASSWORD, "1.2.3.4").roles == {"*": "owner"}
    for name, password in (("olga", "another password"), ("nobody", PASSWORD), ("olga", ""), ("", PASSWORD)):
        with pytest.raises(LoginRefused) as refused:
            log_in(ledger, name, password, "1.2.3.4")
        assert str(refused.value) == str(LoginRefused("the name or the password is wrong", hint=refused.value.hint))
    with ledger.reading() as session:
        assert PASSWORD not in str(session.execute(select(PersonRow.password)).all())


def test_guessing_is_slowed_down(ledger: Ledger) -> None:
    for _ in range(5):
        with pytest.raises(LoginRefused):
            log_in(ledger, "olga", "a wrong password", "1.2.3.4")
    for name in ("olga", "OLGA"):
        with pytest.raises(TooManyLogins):
            log_in(ledger, name, PASSWORD, "5.6.7.8")
    _age(ledger, 51)
    log_in(ledger, "olga", PASSWORD, "5.6.7.8")
    log_in(ledger, "olga", PASSWORD, "5.6.7.8")


def test_a_name_without_an_account_is_slowed_down_alike(ledger: Ledger) -> None:
    for _ in range(5):
        with pytest.raises(LoginRefused):
            log_in(ledger, "nobody", "a wrong password", "1.2.3.4")
    with pytest.raises(TooManyLogins):
        log_in(ledger, "nobody", "a wrong password", "1.2.3.4")


def test_an_address_that_tries_many_names_is_slowed_down(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.people.logins.verify_password", lambda digest, password: False)
    for at in range(30):
        with pytest.raises(LoginRefused):
            log_in(ledger, f"name{at}", PASSWORD, "1.2.3.4")
    with pytest.raises(TooManyLogins):
        log_in(ledger, "olga", PASSWORD, "1.2.3.4")


def test_many_guesses_at_once_count_as_many(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("luthier.people.logins.verify_password", lambda digest, password: looked.append(password))

    def guess(at: int) -> None:
        with pytest.raises(LuthierError):
            log_in(ledger, "olga", f"guess {at}", f"10.0.0.{at}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(guess, range(24)))
    assert len(looked) == 5


def _age(ledger: Ledger, seconds: float) -> None:
    with ledger.writing() as session:
        for row in session.scalars(select(LoginAttemptRow)):
            row.at -= timedelta(seconds=seconds)


def test_it_takes_as_long_whether_there_is_such_a_name(ledger: Ledger) -> None:
    def took(name: str) -> float:
        begin = time.perf_counter()
        with pytest.raises(LoginRefused):
            log_in(ledger, name, "a wrong password", name)
        return time.perf_counter() - begin

    log_in(ledger, "olga", PASSWORD, "1.2.3.4")
    with pytest.raises(LoginRefused):
        log_in(ledger, "first", "a wrong password", "1.2.3.4")
    known, unknown = (min(took(name) for name in names) for names in (["olga"] * 4, ["a", "b", "c", "d"]))
    assert 0.5 < known / unknown < 2


def test_a_digest_with_other_parameters_is_made_anew(ledger: Ledger) -> None:
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with ledger.writing() as session:
        session.execute(update(PersonRow).values(password=weak))
    log_in(ledger, "olga", PASSWORD, "1.2.3.4")
    with ledger.reading() as session:
        digest = session.scalars(select(PersonRow.password)).one()
    assert digest is not None
    assert passwords.needs_rehash(weak)
    assert not passwords.needs_rehash(digest)
    assert "$argon2id$" in digest


def test_a_new_password(ledger: Ledger) -> None:
    set_password(ledger, "olga", "another good password", by="olga")
    with pytest.raises(LoginRefused):
        log_in(ledger, "olga", PASSWORD, "1.2.3.4")
    log_in(ledger, "olga", "another good password", "1.2.3.4")


def test_an_invitation_is_used_once(ledger: Ledger) -> None:
    token = create_invitation(ledger, "labeller", ["tickets", "mail"], by="olga")
    assert [one.projects for one in list_invitations(ledger)] == [("tickets", "mail")]
    assert find_invitation(ledger, token).role == "labeller"
    with pytest.raises(InputError, match="password"):
        accept_invitation(ledger, token, "lea", password="short")
    with pytest.raises(InputError, match="or was"):
        accept_invitation(ledger, token, "olga", password=PASSWORD)
    person = accept_invitation(ledger, token, "lea", password=PASSWORD)
    assert person.roles == {"tickets": "labeller", "mail": "labeller"}
    for use in (_accept(ledger, token, "mia"), lambda: join_projects(ledger, token, "olga")):
        with pytest.raises(InputError, match="used already"):
            use()
    with ledger.reading() as session:
        assert token not in str([vars(row) for row in session.scalars(select(InvitationRow))])


def _accept(ledger: Ledger, token: str, name: str) -> Callable[[], Person]:
    return lambda: accept_invitation(ledger, token, name, password=PASSWORD)


def test_of_many_who_use_an_invitation_at_once_one_gets_in(ledger: Ledger) -> None:
    token = create_invitation(ledger, "viewer", by="olga")

    def take(at: int) -> bool:
        try:
            accept_invitation(ledger, token, f"person{at}", identity=("https://id.example", str(at)))
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(12))) == 1
    assert len(list_accounts(ledger)) == 2


def test_an_invitation_is_over_or_withdrawn(ledger: Ledger) -> None:
    over, withdrawn = (create_invitation(ledger, "viewer", by="olga") for _ in range(2))
    withdraw_invitation(ledger, list_invitations(ledger)[1].id, by="olga")
    with ledger.writing() as session:
        session.execute(update(InvitationRow).values(expires_at=datetime.now(UTC)))
    for token in (over, withdrawn, "", "x"):
        with pytest.raises(InputError, match="used already"):
            accept_invitation(ledger, token, "lea", password=PASSWORD)


def test_who_has_an_account_joins_and_keeps_what_they_had(ledger: Ledger) -> None:
    add_person(ledger, "anna", roles={"mail": "editor"}, by="olga", password=PASSWORD)
    token = create_invitation(ledger, "viewer", ["mail", "tickets"], by="olga")
    assert join_projects(ledger, token, "anna").roles == {"mail": "editor", "tickets": "viewer"}
