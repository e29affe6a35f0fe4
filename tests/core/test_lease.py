"""One process of all machines makes an artifact: killed, paused, cut off or torn, none publishes over another."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core import lease as leases
from luthier.core import remote_store
from luthier.core.errors import InputError
from luthier.core.lease import Lease, LeaseFolder, LeaseLost, StoreUnreachable
from luthier.core.remote_store import RemoteStore, open_store
from luthier.core.system.process import get_unique_process_name
from toy_chain import Numbers, manifest

DIGEST = "ab" * 16
TESTS = Path(__file__).parent.parent
HOLDER = """
import sys
from luthier.core import lease
lease.LEASE_S = float(sys.argv[2])
from luthier.core.errors import LuthierError
from luthier.core.remote_store import open_store
from toy_chain import Numbers, manifest

store, digest = open_store(sys.argv[1]), sys.argv[3]
print("go", flush=True)
with store.lock(digest):
    if store.has(digest):
        print("found", flush=True)
        sys.exit()
    folder, _ = store.begin(digest)
    (folder / "who").write_text(sys.argv[4])
    print("held", flush=True)
    sys.stdin.readline()
    try:
        made = store.finish(manifest(Numbers(), digest, {}), {})
        print("made", made.path("who").read_text(), flush=True)
    except LuthierError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}/team"


@pytest.fixture
def holder(tmp_path: Path, url: str) -> Any:
    """Starts a process of a machine of its own, which holds the lease until a line comes."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *, lease_s: float = 1.0) -> subprocess.Popen[str]:
        environment = {**os.environ, "LUTHIER_CACHE": str(tmp_path / name)}
        environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
        command = [sys.executable, "-c", HOLDER, url, str(lease_s), DIGEST, name]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=environment, **pipes)
        started.append(process)
        assert said(process) == "go"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def publish(store: RemoteStore, who: str) -> str:
    """Make the artifact here; returns who made what stands."""
    folder, _ = store.begin(DIGEST)
    (folder / "who").write_text(who)
    return store.finish(manifest(Numbers(), DIGEST, {}), {}).path("who").read_text()


def remote(url: str) -> RemoteStore:
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    return store


def test_one_of_two_machines_makes_and_the_other_finds(holder: Any, url: str) -> None:
    first = holder("first")
    assert said(first) == "held"
    second = holder("second")
    time.sleep(2.5)  # longer than the lease: heartbeats keep it
    assert go_on(first) == "made first"
    assert said(second) == "found"
    assert remote(url)._leases.names() == []


def test_the_work_of_a_killed_machine_is_taken_over_on_the_same_one_at_once(holder: Any, url: str) -> None:
    first = holder("first", lease_s=600)
    assert said(first) == "held"
    first.kill()
    first.communicate()
    second = holder("second", lease_s=600)
    assert said(second) == "held"
    assert go_on(second) == "made second"


def test_a_machine_of_the_same_name_is_not_taken_for_this_one_before_it_was_started_anew() -> None:
    host, boot, space, number, started = get_unique_process_name().split("|")
    gone = f"{host}|{boot}|{space}|{number}|0"
    assert Lease(number=1, owner="x", process=gone).is_free
    assert not Lease(number=1, owner="x", process=f"{host}|other|{space}|{number}|{started}").is_free
    assert not Lease(number=1, owner="x", process=get_unique_process_name()).is_free


def test_a_heartbeat_that_stands_still_is_taken_over_by_the_own_clock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = remote(url)
    with store._reach:
        store._files.pipe_file(
            f"{store._leases._base}/{DIGEST}/00000007",
            Lease(number=7, owner="x", process="far|b|s|1|2", lease_s=1.0, beat=3).dump(),
        )
    with store.lock(DIGEST, wait=False) as held:
        assert not held
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock of this machine is far off
    begun = time.monotonic()
    with store.lock(DIGEST) as held:
        assert held
        assert time.monotonic() - begun < 5
        lease = store._leases.read(DIGEST)
        assert lease is not None
        assert lease.number == 8


@pytest.mark.parametrize("done", [True, False])
def test_a_paused_holder_that_comes_back_publishes_nothing(holder: Any, url: str, done: bool) -> None:
    first = holder("first")
    assert said(first) == "held"
    first.send_signal(signal.SIGSTOP)
    second = holder("second")
    assert said(second) == "held"
    if done:
        assert go_on(second) == "made second"
        second.communicate()
    first.send_signal(signal.SIGCONT)
    assert go_on(first) == ("made second" if done else "LeaseLost")
    if not done:
        assert not remote(url).has(DIGEST)
        assert go_on(second) == "made second"
    store = remote(url)
    assert store.open(DIGEST).path("who").read_text() == "second"
    assert store.verify() == []


def test_a_holder_that_is_paused_while_it_sends_overwrites_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paused, other = remote(url), remote(url)
    other.root = paused.root.with_name("other")
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    send, beat = paused._put, paused._leases.beat

    def pause(artifact: Any, mode: str) -> None:
        """Another machine takes over and publishes between two requests of this one."""
        monkeypatch.setattr(paused._leases, "beat", lambda name, mine: None)
        with other.lock(DIGEST):
            assert publish(other, "other") == "other"
        monkeypatch.setattr(paused._leases, "beat", beat)
        send(artifact, mode)

    monkeypatch.setattr(paused, "_put", pause)
    with paused.lock(DIGEST):
        assert publish(paused, "paused") == "other"
    assert other.verify() == []


def test_a_torn_lease_is_nobody_s_after_its_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote(url)
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    monkeypatch.setattr(Lease, "__init__", _with_default_time(Lease.__init__))
    with store._reach:
        store._files.pipe_file(f"{store._leases._base}/{DIGEST}/00000001", b'{"number": 1, "own')
    with store.lock(DIGEST, wait=False) as held:
        assert not held
    with store.lock(DIGEST) as held:
        assert held


def _with_default_time(init: Callable[..., None]) -> Callable[..., None]:
    def short(self: Lease, **settings: Any) -> None:
        init(self, **{"lease_s": 0.5, **settings})

    return short


def test_many_threads_hold_one_lease_after_the_other() -> None:
    files, held, seen = remote(f"memory://{secrets.token_hex(4)}"), [], []

    def work(number: int) -> None:
        store = remote(files.location)
        store.root = files.root.with_name(str(number))  # each a machine
        for _ in range(3):
            with store.lock(DIGEST):
                held.append(number)
                seen.append(len(held))
                time.sleep(0.01)
                held.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 12


class Away:
    """A place that does not answer for a while."""

    def __init__(self, files: Any) -> None:
        self._files, self.is_away, self.refused = files, False, 0

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._files, name)

        def ask(*given: Any, **settings: Any) -> Any:
            if self.is_away:
                self.refused += 1
                raise ConnectionError("no route to host")
            return act(*given, **settings)

        return ask if callable(act) else act


def test_a_store_that_is_away_while_a_step_ends_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote(url)
    away = Away(store._files)
    store._files = store._leases._files = away
    monkeypatch.setattr(leases, "LEASE_S", 0.4)
    monkeypatch.setattr(remote_store, "_PAUSE_S", 0.05)
    with store.lock(DIGEST):
        folder, _ = store.begin(DIGEST)
        (folder / "who").write_text("me")
        away.is_away = True
        threading.Timer(1.5, lambda: setattr(away, "is_away", False)).start()
        store.finish(manifest(Numbers(), DIGEST, {}), {})
    assert away.refused > 3
    assert store.verify() == []
    assert store._leases.names() == []


def test_a_store_that_stays_away_is_one_error_and_loses_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote(url)
    away = Away(store._files)
    store._files = store._leases._files = away
    monkeypatch.setattr(remote_store, "PATIENCE_S", 0.2)
    monkeypatch.setattr(remote_store, "_PAUSE_S", 0.05)
    with store.lock(DIGEST):
        away.is_away = True
        with pytest.raises(StoreUnreachable, match="cannot be reached"):
            publish(store, "me")
    away.is_away = False
    assert not store.has(DIGEST)
    with store.lock(DIGEST):
        assert store.has(DIGEST), "what was made is sent, not made again"
    assert store.verify() == []


def test_where_files_are_not_created_exclusively_the_lock_is_this_machine_s(url: str) -> None:
    store = remote(url)
    pipe_file = store._files.pipe_file
    store._files.pipe_file = lambda path, data, **settings: pipe_file(path, data)
    with store.lock(DIGEST) as held:
        assert held
        assert store._leases.names() == []
        assert publish(store, "me") == "me"


def test_rubbish_is_not_collected_while_another_machine_makes_something(
    holder: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = holder("first")
    assert said(first) == "held"
    store = remote(url)
    with pytest.raises(InputError, match="another run is making"):
        store.gc(())
    first.kill()
    first.communicate()
    store.gc(())


def test_a_lease_that_was_lost_is_told() -> None:
    store = remote(f"memory://{secrets.token_hex(4)}")
    folder: LeaseFolder = store._leases
    mine = folder.try_take(DIGEST)
    assert mine is not None
    assert folder.try_take(DIGEST) is None
    folder.check(DIGEST, mine)
    folder.release(DIGEST, mine, forget=False)
    other = folder.try_take(DIGEST)
    assert other is not None
    assert other.number == mine.number + 1
    with pytest.raises(LeaseLost, match="nothing was published"):
        folder.check(DIGEST, mine)
