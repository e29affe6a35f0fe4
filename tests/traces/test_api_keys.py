"""Keys: seen once, kept as digests, found in constant time, revoked for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.core.db import Ledger
from luthier.core.errors import InputError, UnknownName
from luthier.traces.api_keys import NO_KEYS, Caller, add_key, list_keys, load_key_store, revoke_key


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    with Ledger(database) as opened:
        yield opened


def test_a_key_opens_until_it_is_revoked(ledger: Ledger) -> None:
    assert not load_key_store(ledger).key_required
    key = add_key(ledger, "bot", ("infer", "tune"), 30)
    ring = load_key_store(ledger)
    assert ring.key_required
    caller = ring.caller(key)
    assert caller == Caller(key="bot", scopes=frozenset({"infer", "tune"}), requests_per_minute=30)
    assert caller is not None
    assert caller.may("tune")
    assert not caller.may("admin")
    revoke_key(ledger, "bot")
    revoke_key(ledger, "bot")
    after = load_key_store(ledger)
    assert after.caller(key) is None
    assert after.key_required, "without its last key the gateway does not fall open"
    assert ring.caller(key) is not None, "a ring is of one moment"


def test_a_secret_is_kept_nowhere(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        key = add_key(ledger, "bot")
        listed = list_keys(ledger)
    secret = key.rpartition("-")[2].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())
    assert [(one.name, one.scopes, one.revoked_at) for one in listed] == [("bot", ("infer",), None)]
    assert key.split("-")[1] == listed[0].id


def test_what_is_nearly_a_key_is_none(ledger: Ledger) -> None:
    key = add_key(ledger, "bot", ("admin",))
    ring = load_key_store(ledger)
    for wrong in (
        "",
        "lk-",
        key[:-1],
        key + "x",
        key.upper(),
        f"lk-{'0' * 12}-{key[16:]}",
        key[:-1] + "é",
        "\udc80" * 60,
    ):
        assert ring.caller(wrong) is None, wrong
    assert NO_KEYS.caller(key) is None
    admin = ring.caller(key)
    assert admin is not None
    assert admin.may("infer")


@pytest.mark.parametrize(
    ("name", "scopes", "rate"),
    [("", ("infer",), None), ("a b", ("infer",), None), ("x" * 65, ("infer",), None), ("ok", (), None),
     ("ok", ("root",), None), ("ok", ("infer",), 0)],
)  # fmt: skip
def test_keys_that_cannot_be(ledger: Ledger, name: str, scopes: tuple[str, ...], rate: int | None) -> None:
    with pytest.raises(InputError):
        add_key(ledger, name, scopes, rate)  # type: ignore[arg-type]
    assert not list_keys(ledger)


def test_a_name_is_given_once(ledger: Ledger) -> None:
    add_key(ledger, "bot")
    revoke_key(ledger, "bot")
    with pytest.raises(InputError, match="there is, or was"):
        add_key(ledger, "bot")
    with pytest.raises(UnknownName, match="no key named 'bott'"):
        revoke_key(ledger, "bott")
