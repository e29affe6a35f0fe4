"""Checkpoints behind the URL of a store: the newest whole one counts, and nothing that is torn or late does."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from luthier.core import remote_checkpoints
from luthier.core.errors import SystemResourceError
from luthier.core.lease import StoreUnreachable
from luthier.core.remote_checkpoints import CheckpointUploader, RemoteCheckpoints
from luthier.core.remote_store import RemoteStore, open_store

DIGEST = "cd" * 16


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> RemoteStore:
    bucket = f"s3://{request.getfixturevalue('bucket')}" if request.param == "s3" else "memory://"
    opened = open_store(f"{bucket}/{secrets.token_hex(4)}")
    assert isinstance(opened, RemoteStore)
    return opened


@pytest.fixture
def works(store: RemoteStore) -> RemoteCheckpoints:
    return store._works_behind


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_checkpoints, "LOOK_S", 0.05)


def write(place: Path, name: str, text: str) -> None:
    """Replace a file of a scratch folder, as steps do."""
    path = place / "scratch" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def sender(works: RemoteCheckpoints, place: Path, number: int, said: list[str] | None = None) -> CheckpointUploader:
    heard = (said if said is not None else []).append
    return CheckpointUploader(works, DIGEST, number, place, ("state", "more/*"), heard)


def sent(works: RemoteCheckpoints, place: Path, number: int, **files: str) -> None:
    """Send some files once."""
    for name, text in files.items():
        write(place, name.replace("_", "/"), text)
    sender(works, place, number).send()


def fetched(works: RemoteCheckpoints, place: Path, *, after: int = -1) -> dict[str, str]:
    """What another machine finds."""
    scratch = place / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    works.fetch(DIGEST, scratch, after=after)
    return {path.relative_to(scratch).as_posix(): path.read_text() for path in scratch.rglob("*") if path.is_file()}


def paths_of(works: RemoteCheckpoints) -> list[str]:
    return [path.split(f"{DIGEST}/")[1] for path in sorted(works.sizes(DIGEST))]


def test_new_states_are_sent_as_they_come_and_old_ones_go(works: RemoteCheckpoints, tmp_path: Path) -> None:
    write(tmp_path / "a", "state", "0")
    write(tmp_path / "a", "noise", "not declared")
    with sender(works, tmp_path / "a", 1):
        for number in range(1, 4):
            write(tmp_path / "a", "state", str(number))
            write(tmp_path / "a", "more/best", "same")
            deadline = time.monotonic() + 20
            while fetched(works, tmp_path / f"b{number}").get("state") != str(number):
                assert time.monotonic() < deadline
                time.sleep(0.02)
    assert fetched(works, tmp_path / "c") == {"state": "3", "more/best": "same"}
    assert len(paths_of(works)) == 3


def test_the_last_state_is_sent_when_the_step_is_stopped(works: RemoteCheckpoints, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), sender(works, tmp_path / "a", 1):
        write(tmp_path / "a", "state", "last")
        raise KeyboardInterrupt
    assert fetched(works, tmp_path / "b") == {"state": "last"}


def test_a_later_lease_counts_whatever_a_paused_holder_sends(works: RemoteCheckpoints, tmp_path: Path) -> None:
    sent(works, tmp_path / "a", 1, state="first")
    sent(works, tmp_path / "b", 2, state="second")
    assert {path.partition("/")[0] for path in paths_of(works)} == {"00000002"}
    sent(works, tmp_path / "a", 1, state="late")
    assert fetched(works, tmp_path / "c") == {"state": "second"}
    assert fetched(works, tmp_path / "d", after=2) == {}
    assert fetched(works, tmp_path / "a", after=1) == {"state": "second"}


@pytest.mark.parametrize("fault", ["torn seal", "no seal", "flipped byte", "missing file", "outside"])
def test_what_is_not_whole_counts_for_nothing(store: RemoteStore, tmp_path: Path, fault: str) -> None:
    works = store._works_behind
    sent(works, tmp_path / "b", 2, state="second")
    sent(works, tmp_path / "a", 1, state="first")
    base = f"{works._base}/{DIGEST}/00000002"
    (content,) = [path for path in works.sizes(DIGEST) if "00000002" in path and not path.endswith(".json")]
    if fault == "torn seal":
        store._files.pipe_file(f"{base}/seal.json", store._files.cat_file(f"{base}/seal.json")[:-9])
    elif fault == "no seal":
        store._files.rm_file(f"{base}/seal.json")
    elif fault == "flipped byte":
        store._files.pipe_file(content, b"sEcond")
    elif fault == "missing file":
        store._files.rm_file(content)
    else:
        from luthier.core.files import dump_json_with_checksum

        name = content.rsplit("/", 1)[1]
        sealed = dump_json_with_checksum({"files": {"../../evil": name}, "children": []})
        store._files.pipe_file(f"{base}/seal.json", sealed)
    found = fetched(works, tmp_path / "c")
    assert found == ({"state": "first"} if "seal" in fault or fault == "outside" else {})
    assert not (tmp_path / "evil").exists()


def test_children_are_known_elsewhere(store: RemoteStore, tmp_path: Path) -> None:
    store.begin(DIGEST)
    store.record_child(DIGEST, "ef" * 16)
    write(store.work / DIGEST, "state", "1")
    sender(store._works_behind, store.work / DIGEST, 1).send()
    store.root = tmp_path / "other"
    assert store._children(DIGEST) == ["ef" * 16]


def test_a_store_that_is_away_stops_no_step_and_one_that_refuses_is_told_once(
    works: RemoteCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    write(tmp_path / "a", "state", "1")
    mine = sender(works, tmp_path / "a", 1, said)

    def fail(error: Exception) -> Any:
        def send(*given: Any) -> None:
            raise error

        return send

    with monkeypatch.context() as patch:
        patch.setattr(works, "send", fail(StoreUnreachable("away")))
        mine.send()
        assert said == []
        patch.setattr(works, "send", fail(SystemResourceError("the disk is full")))
        mine.send()
        mine.send()
        assert len(said) == 1
        assert "only this machine can go on" in said[0]
    mine.send()
    assert fetched(works, tmp_path / "b") == {"state": "1"}


@pytest.mark.parametrize("links", [True, False])
def test_what_is_sent_is_the_file_as_it_was_whatever_replaces_it(
    works: RemoteCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*given: Path) -> None:
        raise PermissionError("a mounted bucket has no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "a", "state", "1")
    mine = sender(works, tmp_path / "a", 1)
    paths = mine._hold_files(mine._read_stamps())
    write(tmp_path / "a", "state", "2")
    assert paths["state"].read_text() == "1"
    assert (tmp_path / "a" / "scratch" / "state").read_text() == "2"
