"""A store behind a URL keeps the same promises as a folder: in memory, and on a real S3 server."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.core.artifact import MANIFEST, TIMING
from luthier.core.errors import CorruptArtifact, InputError, UnknownName
from luthier.core.remote_store import RemoteStore, open_store
from luthier.core.store import Store
from toy_chain import run_chain

Chain = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A place of each kind that is new and empty."""
    if request.param == "memory":
        return f"memory://{secrets.token_hex(4)}"
    return f"s3://{request.getfixturevalue('bucket')}/team/luthier"


@pytest.fixture
def store(url: str) -> RemoteStore:
    opened = open_store(url)
    assert isinstance(opened, RemoteStore)
    return opened


def forget(store: Store) -> None:
    """Make this machine forget its copies, so that the next use fetches."""
    shutil.rmtree(store.root)


def behind(store: RemoteStore, digest: str, name: str) -> str:
    return f"{store._base}/{digest}/{name}"


def test_what_one_machine_makes_another_finds(store: RemoteStore, url: str, tmp_path: Path) -> None:
    made = run_chain(store, tmp_path / "log")
    forget(store)
    other = open_store(url)
    assert other.digests() == sorted(artifact.digest for artifact in made)
    found = run_chain(other, tmp_path / "log")
    assert [artifact.check().manifest for artifact in found] == [artifact.manifest for artifact in made]
    assert found[-1].parent("data").parent("data").digest == made[0].digest
    assert (tmp_path / "log").read_text().split() == ["toy_numbers", "toy_squares", "toy_total"]
    assert other.find(made[0].digest[:7]).digest == made[0].digest
    assert other.verify() == []
    assert other.location == url


def test_local_and_remote_bytes_are_the_same(store: RemoteStore, tmp_path: Path) -> None:
    local = Store(tmp_path / "local")
    for one, other in zip(run_chain(local, tmp_path / "log"), run_chain(store, tmp_path / "log"), strict=True):
        for entry in [*one.manifest.files]:
            assert store._files.cat_file(behind(store, one.digest, entry.path)) == one.path(entry.path).read_bytes()
        raw = store._files.cat_file(behind(store, one.digest, MANIFEST))
        assert raw == (one.folder / MANIFEST).read_bytes() == (other.folder / MANIFEST).read_bytes()


@pytest.mark.parametrize("name", [MANIFEST, TIMING, "more.bin", "rows/3.json"])
def test_a_flipped_byte_behind_the_url_is_found_and_named(
    store: RemoteStore, url: str, tmp_path: Path, name: str
) -> None:
    numbers = run_chain(store, tmp_path / "log", size=100)[0]
    path = behind(store, numbers.digest, name)
    flipped = bytearray(store._files.cat_file(path))
    flipped[len(flipped) // 2] ^= 4
    store._files.pipe_file(path, bytes(flipped))
    wanted = f"{url}/artifacts/{numbers.digest}/{name}"
    assert store.verify()[0].startswith(wanted)
    forget(store)
    with pytest.raises(CorruptArtifact) as caught:
        store.open(numbers.digest)
    assert caught.value.where.file == wanted


def test_missing_longer_and_foreign_files_behind_the_url_are_found(store: RemoteStore, tmp_path: Path) -> None:
    numbers, squares, total = run_chain(store, tmp_path / "log")
    store._files.rm_file(behind(store, numbers.digest, "rows/0.json"))
    store._files.pipe_file(behind(store, squares.digest, "squares.jsonl"), b"1")
    store._files.pipe_file(behind(store, total.digest, "foreign"), b"1")
    store._files.rm_file(behind(store, total.digest, TIMING))
    told = "\n".join(store.verify())
    assert "rows/0.json: is missing" in told
    assert "squares.jsonl: has 1 bytes" in told
    assert "foreign: is not in the manifest" in told
    assert "timing.json: is missing" in told


def test_a_changed_copy_on_this_machine_is_found(store: RemoteStore, tmp_path: Path) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    total.path("total.json").write_text("0")
    assert [fault for fault in store.verify() if fault.startswith(str(total.folder))]


def test_a_broken_off_sending_is_not_seen_and_overwritten(store: RemoteStore, tmp_path: Path) -> None:
    numbers = run_chain(store, tmp_path / "log")[0]
    store._files.rm_file(behind(store, numbers.digest, MANIFEST))
    store._files.pipe_file(behind(store, numbers.digest, "rows/0.json"), b"half")
    store._files.pipe_file(behind(store, numbers.digest, "leftover"), b"half")
    forget(store)
    assert not store.has(numbers.digest)
    assert numbers.digest not in store.digests()
    assert store.verify() == []
    run_chain(store, tmp_path / "log")
    assert store.has(numbers.digest)
    assert store.verify() == []


def test_only_old_broken_sendings_are_collected(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, _, total = run_chain(store, tmp_path / "log")
    store._files.rm_file(behind(store, numbers.digest, MANIFEST))
    assert store.gc({total.digest}).artifacts == ()
    later = time.time() + 2 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.gc({total.digest}).artifacts == (numbers.digest,)
    assert store._sizes(numbers.digest) == {}


def test_removal_usage_and_collection_reach_behind_the_url(store: RemoteStore, tmp_path: Path) -> None:
    numbers, squares, total = run_chain(store, tmp_path / "log", size=5000)
    assert {holding.digest: holding.makes for holding in store.usage()}[total.digest] == "evaluation"
    collected = store.gc({squares.digest})
    assert collected.artifacts == (total.digest,)
    assert collected.bytes > 0
    assert store.digests() == sorted([numbers.digest, squares.digest])
    assert store.remove(numbers.digest) > 5000
    assert not store.has(numbers.digest)
    with pytest.raises(UnknownName):
        store.open(numbers.digest)


def test_collection_takes_what_jobs_said_and_works_whose_artifact_stands(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = run_chain(store, tmp_path / "log")[-1]
    for digest in (total.digest, "a" * 32):
        path = store.root / "tasks" / digest / "events.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
        store.send_file(f"tasks/{digest}/events.jsonl")
        store._files.pipe_file(f"{store._works_behind._base}/{digest}/00000001/seal.json", b"{}")
    assert store.gc(None).tasks == ()
    later = time.time() + 2 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.gc(None).tasks == (total.digest,)
    assert store.read_file(f"tasks/{total.digest}/events.jsonl") == b""
    assert store.read_file(f"tasks/{'a' * 32}/events.jsonl") == b"{}\n"
    assert store._works_behind.digests() == ["a" * 32]
    assert store._leases.names() == []
    assert len(store.digests()) == 3


def test_a_kill_while_sending_leaves_nothing_that_counts(bucket: str, chain: Chain, tmp_path: Path) -> None:
    url = f"s3://{bucket}/killed"
    store = open_store(url)
    for moment in range(6):
        process = chain(url, "--bytes", "3000000")
        try:
            process.wait(timeout=0.15 + 0.12 * moment)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert store.verify() == []
    run_chain(store, tmp_path / "log", size=3_000_000)
    assert store.verify() == []
    assert len(store.digests()) == 3


def test_two_processes_share_the_work_behind_one_url(bucket: str, chain: Chain, tmp_path: Path) -> None:
    url = f"s3://{bucket}/both"
    processes = [chain(url, "--pause", "0.01") for _ in range(2)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["toy_numbers", "toy_squares", "toy_total"]
    assert open_store(url).verify() == []


def test_two_machines_share_the_work_behind_one_url(
    bucket: str, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, processes = f"s3://{bucket}/machines", []
    for machine in ("one", "other"):
        monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / machine))
        processes.append(chain(url, "--pause", "0.05"))
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["toy_numbers", "toy_squares", "toy_total"]
    assert open_store(url).verify() == []


def test_many_are_asked_for_side_by_side(store: RemoteStore, tmp_path: Path) -> None:
    made = {artifact.digest for artifact in run_chain(store, tmp_path / "log")}
    assert store.find_made([*made, "e" * 32, *made]) == made
    assert store.find_made([]) == set()
    assert set(store.read_newest_timings()) == {"toy_numbers", "toy_squares", "toy_total"}


def test_a_place_without_a_protocol_or_with_file_is_a_folder(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        store = open_store(place)
        assert type(store) is Store
        assert store.root == tmp_path


def test_a_bucket_that_is_not_there_says_so(s3_environment: None) -> None:
    with pytest.raises(UnknownName, match="no such bucket"):
        open_store("s3://luthier-nowhere/x")


def test_no_credentials_says_so(s3_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="no credentials") as caught:
        open_store("s3://bucket/x")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_no_network_says_so(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match="cannot be reached"):
        open_store("s3://bucket/x")


def test_a_kind_of_place_that_nobody_knows_says_so() -> None:
    with pytest.raises(InputError, match="'s4' is no kind of place"):
        open_store("s4://bucket/x")


def test_without_its_library_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from luthier.core.errors import MissingExtra\n"
        "from luthier.core.remote_store import open_store\n"
        "try: open_store('s3://bucket/x')\n"
        "except MissingExtra as error: print(error.hint)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "pip install 'luthier[s3]'\n"


def test_a_password_in_a_url_is_never_shown() -> None:
    store = open_store("memory://user:secret@place")
    assert "secret" not in store.location
    with pytest.raises(UnknownName) as caught:
        store.open("0" * 32)
    assert "secret" not in str(caught.value)
