"""Sites behind Flower: messages over Unix sockets, and the real SuperLink and SuperNodes where Flower is installed.

Flower's pins exclude ours. Install it into an environment of its own, and name that: `python -m venv flower`,
`flower/bin/pip install flwr`, `LUTHIER_FLOWER_ENV=flower`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from federations import Sites
from luthier.commands.site import FLOWER_APP_FILES, write_flower_app
from luthier.core.errors import DataError, InputError
from luthier.federated import flower_app
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import open_mailbox
from luthier.federated.messaging.messages import FederationMessage, Final
from luthier.federated.messaging.socket_mailbox import SocketMailbox
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.worker import SiteWorker

NAMES = ["north", "south"]
ADAPTER = "adapter/adapter_model.safetensors"
APP = Path(next(iter(flower_app.__path__)))


def _load_request() -> Any:
    """The app's own client of Unix sockets, which needs no Flower."""
    spec = importlib.util.spec_from_file_location("unix_http", APP / "luthier_bridge" / "unix_http.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.request


request_over = _load_request()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="fl") as name:
        yield Path(name)


class Federation:
    """Two sites that listen at sockets, and a coordinator that does."""

    def __init__(self, sites: Sites, folder: Path) -> None:
        self.sites, self.folder = sites, folder
        self.keys = {name: FederationIdentity.create(name) for name in ("coordinator", *NAMES)}
        for name, identity in self.keys.items():
            identity.write(folder / name)
        self.coordinator = folder / "c.sock"
        self.servers: dict[str, SiteServer] = {}
        self.stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def open_site(self, name: str) -> SiteServer:
        policy = SitePolicy.model_validate(
            {"name": name, "coordinator": "-", "recipe": "-", "approval": "never", "least_rows": 4}
        )
        inputs = SiteInputs(data=self.sites.data[name], model=self.sites.base)
        mailbox = SocketMailbox(self.socket_of(name))
        coordinator = self.keys["coordinator"].card
        return SiteServer(self.folder / name, self.keys[name], coordinator, mailbox, inputs, policy)

    def socket_of(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    def serve(self, *names: str) -> None:
        for name in names:
            self.servers[name] = self.open_site(name)
        mine = list(names)

        def run() -> None:
            while not self.stopped.wait(0.05):
                for name in mine:
                    self.servers[name].answer_waiting()

        self.start(run)

    def start(self, run: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def step(self, **settings: Any) -> Any:
        transport = {
            "kind": "flower", "socket": str(self.coordinator), "keys": str(self.folder / "coordinator"),
            "member_cards": {name: str(self.folder / name / "card.json") for name in NAMES},
            "wait_s": settings.pop("wait_s", 300),
        }  # fmt: skip
        return self.sites.step([], rounds=2, sum="ffa", transport=transport, **settings)

    def close(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()
        for server in self.servers.values():
            server.close()


@pytest.fixture
def federation(sites: Sites, folder: Path) -> Iterator[Federation]:
    opened = Federation(sites, folder)
    yield opened
    opened.close()


def weights_of(artifact: Any) -> str:
    return next(str(entry.digest) for entry in artifact.manifest.files if entry.path == ADAPTER)


@pytest.fixture(scope="module")
def here(sites: Sites) -> str:
    """The weights of the same federation in one process."""
    return weights_of(sites.federate(sites.step(NAMES, rounds=2, sum="ffa")))


def carry_between(federation: Federation, name: str) -> Callable[[], None]:
    """What the apps do for one site, without Flower between them."""

    def run() -> None:
        while not federation.stopped.wait(0.05):
            with suppress(OSError, HTTPException):
                status, envelope, url = request_over(str(federation.coordinator), "GET", f"/messages/{name}")
                if status == 200:
                    site = str(federation.socket_of(name))
                    status, answer, _ = request_over(site, "POST", "/messages", envelope)
                    if status == 200:
                        request_over(str(federation.coordinator), "PUT", url, answer)

    return run


def test_messages_over_unix_sockets_make_the_same_model(federation: Federation, here: str) -> None:
    federation.serve(*NAMES)
    for name in NAMES:
        federation.start(carry_between(federation, name))
    assert weights_of(federation.sites.federate(federation.step(), digest="a1" * 16)) == here
    assert not federation.coordinator.exists()
    log = SiteLedger(federation.folder / "north").read()
    assert [(entry.way, entry.kind) for entry in log][-2:] == [("in", "final"), ("out", "measured")]


def test_a_message_that_comes_again_is_answered_by_the_same_bytes_and_trained_once(
    federation: Federation, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge that goes while a site trains asks again, and the site is asked anew by a coordinator's copy."""
    trained, lost = list[int](), list[bytes]()
    answer = SiteWorker.answer

    def answering(self: SiteWorker, number: int, content: bytes) -> bytes:
        trained.append(number)
        return answer(self, number, content)

    monkeypatch.setattr(SiteWorker, "answer", answering)

    def carry_and_lose() -> None:
        """Like the above, but every first answer to a message is lost on its way."""
        while not federation.stopped.wait(0.05):
            with suppress(OSError, HTTPException):
                status, envelope, url = request_over(str(federation.coordinator), "GET", "/messages/north")
                if status == 200:
                    site = str(federation.socket_of("north"))
                    status, found, _ = request_over(site, "POST", "/messages", envelope)
                    if envelope in lost:
                        request_over(str(federation.coordinator), "PUT", url, found)
                    lost.append(envelope)

    federation.serve(*NAMES)
    federation.start(carry_and_lose)
    federation.start(carry_between(federation, "south"))
    assert weights_of(federation.sites.federate(federation.step(), digest="a2" * 16)) == here
    log = [entry for entry in SiteLedger(federation.folder / "north").read() if entry.kind == "update"]
    assert len(log) == 4
    assert len({entry.digest for entry in log}) == 2


def test_a_site_that_does_not_come_is_counted(federation: Federation) -> None:
    federation.serve("north", "south")
    federation.start(carry_between(federation, "north"))
    step = federation.step(least=1, wait_s=6)
    model = federation.sites.federate(step, digest="a3" * 16)
    rounds = model.read_json("federation.json")["rounds"]
    assert [sorted(entry["sites"]) for entry in rounds] == [["north"], ["north"]]
    with pytest.raises(DataError, match="1 of 2 sites take part"):
        federation.step(wait_s=1).make(federation.sites.work(federation.step(), digest="a4" * 16))


def test_what_a_site_refuses_gets_no_answer(federation: Federation) -> None:
    federation.serve("north")
    site = str(federation.socket_of("north"))
    assert request_over(site, "POST", "/messages", b"rows, please")[:2] == (204, b"")
    assert request_over(site, "POST", "/messages", b"rows, please")[:2] == (204, b"")
    assert request_over(site, "POST", "/rows", b"")[0] == 404
    stranger = FederationIdentity.create("stranger")
    envelope = stranger.seal(FederationMessage(Final()).encode(), federation.keys["north"].card, "ab" * 16, 1)
    assert request_over(site, "POST", "/messages", envelope)[:2] == (204, b"")
    refusals = [entry.why for entry in SiteLedger(federation.folder / "north").read()]
    assert len(refusals) == 2, "what was refused is not read again"
    assert "is not the key of coordinator" in refusals[1]


def test_a_socket_is_for_its_owner_and_group_and_is_taken_over_from_a_killed_process(folder: Path) -> None:
    path = folder / "n.sock"
    mailbox = SocketMailbox(path)
    assert path.stat().st_mode & 0o777 == 0o660
    with pytest.raises(InputError, match="somebody listens there already"):
        SocketMailbox(path)
    mailbox.close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    SocketMailbox(path).close()
    with pytest.raises(InputError, match="at most 107 bytes"):
        SocketMailbox(folder / ("n" * 120))
    with pytest.raises(InputError, match="cannot listen there"):
        SocketMailbox(folder / "missing" / "n.sock")


def test_a_policy_names_one_way(folder: Path) -> None:
    settings = {"name": "north", "coordinator": "-", "recipe": "-", "flower": str(folder / "n.sock")}
    mailbox = open_mailbox(SitePolicy.model_validate(settings))
    assert isinstance(mailbox, SocketMailbox)
    mailbox.close()
    with pytest.raises(InputError, match="one of them"):
        open_mailbox(SitePolicy.model_validate({**settings, "folder": "mail"}))


def test_the_app_is_written_whole_and_over_nothing(tmp_path: Path) -> None:
    written = write_flower_app(tmp_path / "app")
    assert sorted(path.relative_to(tmp_path / "app").as_posix() for path in written) == sorted(FLOWER_APP_FILES)
    shipped = {path.relative_to(APP).as_posix() for path in APP.rglob("*") if path.suffix in (".py", ".toml")}
    assert shipped == set(FLOWER_APP_FILES)
    assert "luthier." not in (tmp_path / "app" / "luthier_bridge" / "apps.py").read_text().replace("luthier_bridge", "")
    with pytest.raises(InputError, match="not an empty folder"):
        write_flower_app(tmp_path / "app")


class Flower:
    """A SuperLink and SuperNodes in an environment of their own."""

    def __init__(self, environment: Path, federation: Federation) -> None:
        self.programs, self.federation = environment.absolute() / "bin", federation
        self.folder = federation.folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = _find_port()
        self.variables = {
            **os.environ, "FLWR_HOME": str(self.folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }  # fmt: skip
        self.variables.pop("PYTHONPATH", None)
        (self.folder / "flwr").mkdir()
        text = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        (self.folder / "flwr" / "config.toml").write_text(text)

    def start(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(self.programs / program), "--insecure", *words],
                env=self.variables, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def start_link(self) -> None:
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--disable-runtime-dependency-installation"]
        self.start("link", "flower-superlink", *words)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "link.log").read_text())

    def start_node(self, name: str) -> None:
        config = f'site="{name}" socket="{self.federation.socket_of(name)}"'
        link = ["--superlink", f"127.0.0.1:{self.port}", "--port", str(_find_port())]
        self.start(name, "flower-supernode", *link, "--node-config", config)

    def run_app(self) -> None:
        write_flower_app(self.folder / "app")
        command = [
            str(self.programs / "flwr"), "run", str(self.folder / "app"),
            "--run-config", f'socket="{self.federation.coordinator}"',
        ]  # fmt: skip
        subprocess.run(command, env=self.variables, check=True, capture_output=True, timeout=120)

    def kill(self, name: str) -> None:
        """Kill a process and all that it started, at once."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)


def _find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def flower(federation: Federation) -> Iterator[Flower]:
    environment = os.environ.get("LUTHIER_FLOWER_ENV", "")
    if not environment or not shutil.which("flower-superlink", path=str(Path(environment) / "bin")):
        pytest.skip("Flower has an environment of its own: install flwr there, and set LUTHIER_FLOWER_ENV to it")
    opened = Flower(Path(environment), federation)
    yield opened
    opened.close()


@pytest.mark.slow
def test_flowers_own_link_and_nodes_carry_the_same_model(federation: Federation, flower: Flower, sites: Sites) -> None:
    processes = sites.step(NAMES, rounds=2, sum="ffa", transport={"kind": "processes", "wait_s": 300})
    federation.serve(*NAMES)
    flower.start_link()
    for name in NAMES:
        flower.start_node(name)
    flower.run_app()
    found = weights_of(sites.federate(federation.step(), digest="b1" * 16))
    assert found == weights_of(sites.federate(processes, digest="b2" * 16))


@pytest.mark.slow
def test_a_node_that_is_killed_while_its_site_trains_is_followed_by_another(
    federation: Federation, flower: Flower, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, killed = SiteWorker.answer, threading.Event()

    def answering(self: SiteWorker, number: int, content: bytes) -> bytes:
        if number == 1 and self.name == "south" and not killed.is_set():
            killed.set()
            flower.kill("south")
            flower.start_node("south")
        return answer(self, number, content)

    monkeypatch.setattr(SiteWorker, "answer", answering)
    federation.serve(*NAMES)
    flower.start_link()
    for name in NAMES:
        flower.start_node(name)
    flower.run_app()
    assert weights_of(federation.sites.federate(federation.step(), digest="b3" * 16)) == here
    assert killed.is_set()
