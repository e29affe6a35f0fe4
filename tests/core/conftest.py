"""Real places to test with: an S3 server on loopback."""

from __future__ import annotations

import logging
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ALLOWED_LOOPBACK = "127.0.0.1"


@pytest.fixture
def chain(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the toy chain in a process of its own and waits until it has imported everything."""

    def start(store: Path | str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(TESTS / "toy_chain.py"), str(store), str(tmp_path / "log"), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        return process

    return start


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep copies of remote artifacts inside the test's own folder."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUTHIER_LEDGER", raising=False)


@pytest.fixture(autouse=True)
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each ledger by its migrations."""
    monkeypatch.setenv("LUTHIER_TESTS_REAL_MIGRATIONS", "1")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that runs inside this process."""
    server = pytest.importorskip("moto.server", reason="needs moto[server] (dependency group `test`)")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ALLOWED_LOOPBACK, 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every S3 client at the test's server."""
    names = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def bucket(s3_environment: None, s3_server: str) -> str:
    """A new bucket."""
    import boto3

    name = f"luthier-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return name
