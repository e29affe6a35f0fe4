"""`luthier serve` as its command starts it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tests import ready


@dataclass
class Running:
    """A server that was started by its command."""

    process: subprocess.Popen[str]
    told: dict[str, Any]

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.told["url"], api_key=key, **{"max_retries": 0, "timeout": 60, **more})

    def stop(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextmanager
def command(folder: Path, *words: str, start: type[subprocess.Popen[Any]] = ready.Popen) -> Iterator[Running]:
    """`luthier serve … --port 0 --json` in a folder; `subprocess.Popen` starts it from nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    process = start(
        [sys.executable, "-m", "luthier", "serve", *words, "--port", "0", "--json"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith('{"url"'), line + "".join(process.communicate())
        yield Running(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()
