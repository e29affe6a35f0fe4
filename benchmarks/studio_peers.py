"""The peers of the studio's benchmark: Gradio's dataframe, Label Studio and doccano, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from http.cookiejar import CookieJar
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from studio_browser import MARK, probe_keys, time_change

_GRADIO = """
import csv, sys
import gradio
with open(sys.argv[1], newline="") as file:
    rows = list(csv.reader(file))
with gradio.Blocks() as page:
    gradio.Dataframe(value=rows[1:], headers=rows[0], interactive=False, show_search="search", max_height=700)
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[2]), quiet=True)
"""
_START_S = 300
_PASSWORD = "a-long-password-1"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Peer(ABC):
    """A peer's program, which serves a page."""

    name: str
    package: str

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._folder = Path(tempfile.mkdtemp(dir=folder, prefix=f"{self.name}-"))
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.version = f"{self.package} {self._installed()}"

    def _installed(self) -> str:
        words = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.run([self._python, "-c", words], check=True, capture_output=True, text=True).stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes: nothing of it is kept outside its folder."""
        return {**os.environ, "HOME": str(self._folder), "PYTHONPATH": ""}

    @abstractmethod
    def start(self) -> None:
        """Begin to serve."""

    def launch(self, *command: str | Path) -> None:
        """Begin a process of it."""
        log = (self._folder / f"log{len(self._processes)}").open("wb")
        self._processes.append(
            subprocess.Popen(
                command, cwd=self._folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def run(self, *command: str | Path) -> None:
        """Run a command of it to its end."""
        subprocess.run(command, cwd=self._folder, env=self.environment, check=True, capture_output=True)

    def cpu_seconds(self) -> float:
        """What its processes, and those that they began, have used so far."""
        sessions, ticks = {process.pid for process in self._processes}, 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15])) if int(fields[3]) in sessions else 0
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait(self, path: str = "/") -> None:
        """Wait until it answers."""
        end = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=20):
                    return
            except OSError as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    return
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class GradioTable(Peer):
    """The rows of a CSV file in Gradio's dataframe."""

    name = package = "gradio"
    cell = ".virtual-row [role=gridcell]"

    def __init__(self, python: Path, rows: Path, folder: Path) -> None:
        super().__init__(python, folder)
        self._rows = rows

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "GRADIO_ANALYTICS_ENABLED": "False"}

    def start(self) -> None:
        self.launch(self._python, "-c", _GRADIO, self._rows, str(self.port))
        self.wait()

    def search(self, page: Any, words: Sequence[str]) -> list[float]:
        """Seconds from each text that is searched for to the rows that have it."""
        page.goto(self.url)
        page.locator(self.cell).first.wait_for()
        field, rows = page.locator("input.search-input"), ".virtual-body"
        took = []
        for word in words:
            pattern = f"{MARK}\\d*{word.removeprefix(MARK)}"
            took.append(time_change(page, rows, "input", partial(field.fill, word), pattern))
            page.wait_for_timeout(300)
        return took


class WebPeer(Peer):
    """A peer in which people label texts."""

    @abstractmethod
    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """Seconds that texts take to come into a project of it, by its own API."""

    @abstractmethod
    def open_page(self, page: Any, person: int) -> Any:
        """The page on which a person labels; time is taken from the key that `press` presses last."""

    @abstractmethod
    def press(self, page: Any) -> None:
        """Choose a label and go on."""


class LabelStudio(WebPeer):
    """Label Studio on SQLite, as its own command starts it; six people have signed up."""

    name, package = "label_studio", "label-studio"
    _token = secrets.token_hex(20)
    _project = 0

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment, "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false", "DEBUG": "false",
        }  # fmt: skip

    def start(self) -> None:
        self.launch(
            self._python.with_name("label-studio"), "start", "--no-browser", "--data-dir", self._folder,
            "--username", "owner@example.com", "--password", _PASSWORD, "--user-token", self._token,
            "--enable-legacy-api-token", "--port", str(self.port), "--internal-host", "127.0.0.1",
        )  # fmt: skip
        self.wait("/health")

    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        choices = "".join(f'<Choice value="{label}" hotkey="{at}"/>' for at, label in enumerate(labels, start=1))
        config = (
            '<View><Text name="text" value="$text"/><Choices name="topic" toName="text" choice="single" '
            f'required="true">{choices}</Choices></View>'
        )
        self._project = self._call("/api/projects/", {"title": "topics", "label_config": config})["id"]
        began = time.perf_counter()
        done = self._call(f"/api/projects/{self._project}/import", [{"text": text} for text in texts])
        assert done["task_count"] == len(texts)
        return time.perf_counter() - began

    def _call(self, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Token {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=1800) as answer:
            return json.load(answer)

    def open_page(self, page: Any, person: int) -> Any:
        probe_keys(page, ".lsf-richtext__container", "Enter")
        page.goto(f"{self.url}/user/signup/")
        page.fill("input[name=email]", f"person{person}-{secrets.token_hex(3)}@example.com")
        page.fill("input[name=password]", _PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_load_state("networkidle")
        page.goto(f"{self.url}/projects/{self._project}/data?labeling=1")
        page.locator(".lsf-richtext__container").first.wait_for()
        page.get_by_text(MARK).first.wait_for()
        return page

    def press(self, page: Any) -> None:
        page.keyboard.press("1")
        page.wait_for_timeout(100)
        page.keyboard.press("Control+Enter")


class Doccano(WebPeer):
    """doccano on SQLite, with one worker for its imports, as its own commands start them; one account in six profiles,
    each far from the others in the list."""

    name = package = "doccano"
    _project = 0
    _count = 0

    def __init__(self, python: Path, folder: Path) -> None:
        super().__init__(python, folder)
        self._jar = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))

    def start(self) -> None:
        doccano = self._python.with_name("doccano")
        self.run(doccano, "init")
        self.run(doccano, "createuser", "--username", "owner", "--password", _PASSWORD)
        self.launch(doccano, "webserver", "--port", str(self.port))
        self.launch(doccano, "task", "--concurrency", "1")
        self.wait()

    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        self._call("/v1/auth/login/", {"username": "owner", "password": _PASSWORD})
        settings = {
            "name": "topics", "description": "topics", "guideline": "", "project_type": "DocumentClassification",
            "resourcetype": "TextClassificationProject", "random_order": False, "collaborative_annotation": False,
            "single_class_classification": True, "allow_member_to_create_label_type": False, "tags": [],
        }  # fmt: skip
        project = f"/v1/projects/{self._call('/v1/projects', settings)['id']}"
        self._project, self._count = int(project.rpartition("/")[2]), len(texts)
        for at, label in enumerate(labels, start=1):
            colour = {"background_color": "#209cee", "text_color": "#ffffff"}
            self._call(
                f"{project}/category-types", {"text": label, "suffix_key": str(at), "prefix_key": None, **colour}
            )
        lines = "\n".join(json.dumps({"text": text, "label": []}) for text in texts)
        began = time.perf_counter()
        asked = {
            "format": "JSONL", "uploadIds": [self._upload(lines.encode())], "task": "DocumentClassification",
            "column_data": "text", "column_label": "label", "encoding": "utf_8",
        }  # fmt: skip
        task = self._call(f"{project}/upload", asked)["task_id"]
        while not (state := self._call(f"/v1/tasks/status/{task}"))["ready"]:
            time.sleep(0.2)
        took = time.perf_counter() - began
        assert not state["result"]["error"], state
        assert self._call(f"{project}/metrics/progress")["total"] == len(texts)
        return took

    def _upload(self, content: bytes) -> str:
        border = secrets.token_hex(16)
        part = f'--{border}\r\nContent-Disposition: form-data; name="filepond"'
        head = f'{part}\r\n\r\n{{}}\r\n{part}; filename="texts.jsonl"\r\nContent-Type: text/plain\r\n\r\n'
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        return str(self._send("/v1/fp/process/", body, f"multipart/form-data; boundary={border}")).strip()

    def _call(self, path: str, body: Any = None) -> Any:
        return json.loads(self._send(path, None if body is None else json.dumps(body).encode(), "application/json"))

    def _send(self, path: str, body: bytes | None, kind: str) -> str:
        headers = {"Content-Type": kind, "Referer": self.url}
        for cookie in self._jar:
            if cookie.name == "csrftoken":
                headers["X-CSRFToken"] = cookie.value or ""
        with self._opener.open(urllib.request.Request(self.url + path, body, headers), timeout=1800) as answer:
            return str(answer.read().decode())

    def open_page(self, page: Any, person: int) -> Any:
        probe_keys(page, "main", "ArrowRight")
        login = {"username": "owner", "password": _PASSWORD}
        page.context.request.post(f"{self.url}/v1/auth/login/", data=login)
        first = 1 + person * (self._count // 6)
        page.goto(f"{self.url}/projects/{self._project}/text-classification?page={first}")
        page.get_by_text(MARK).first.wait_for()
        return page

    def press(self, page: Any) -> None:
        page.keyboard.press("1")
        page.wait_for_timeout(300)
        page.keyboard.press("ArrowRight")
