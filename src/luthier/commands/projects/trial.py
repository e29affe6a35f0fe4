"""Trying a model: `luthier serve` in a process of its own, asked the same question as its base model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.commands.jobs.process import signal_process_group
from luthier.commands.projects.workspace import load_made_plan
from luthier.core.errors import InputError, ModelError
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.system.process import unique_process_name_of
from luthier.recipe.workspace import Workspace

TrialState = Literal["off", "starting", "ready", "failed"]
_IDLE_S = 900.0
_PATIENCE_S = 10.0
_TOKENS = 256
_MOST_CHARS = 20_000


class TrialModel(NamedTuple):
    """A model of a project that can be tried."""

    step: str
    words: list[str]
    """What is served: the step, and its base model where it has one."""


class TrialAnswer(NamedTuple):
    """What one model answered."""

    model: str
    text: str
    seconds: float


def list_trial_models(workspace: Workspace, file: Path) -> list[TrialModel]:
    """The tuned models of a recipe that are made, each with the base model that it can be compared with."""
    plan, word = load_made_plan(workspace, file, "model")
    recipe = plan.recipe
    found = []
    for planned in plan:
        if planned.step.kind in ("tune", "merge") and planned.cached:
            base = recipe.references(planned.step).get("model") == "model" and "model" in recipe.all_steps()
            words = [f"{word}:{planned.name}", *([f"{word}:model"] if base else [])]
            found.append(TrialModel(planned.name, words))
    return found


class TrialServer:
    """One server at a time: it ends when nobody asked for a while, when another is tried, and with the studio."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        """`folder` is where its process prints."""
        self._workspace, self._folder = workspace, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at = 0.0
        self.words: list[str] = []
        """What is served."""

    @property
    def state(self) -> TrialState:
        """How it stands."""
        if self._process is None:
            return "off"
        if self._process.poll() is not None:
            return "failed"
        return "ready" if self._facts() else "starting"

    @property
    def names(self) -> list[str]:
        """The models that answer, the tuned one first."""
        return [str(name) for name in self._facts().get("models", ())]

    @property
    def message(self) -> str:
        """What it said last, when it failed."""
        lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " ".join(lines[-2:])[:600] if lines else "it ended without a word"

    def start(self, model: TrialModel) -> None:
        """Serve a model and its base; what was served before ends."""
        if self.words == model.words and self.state in ("starting", "ready"):
            return
        self.stop()
        self.end_leftover()
        serve = ["serve", *model.words, "--port", "0", "--json", "--no-traces", "--no-jobs"]
        with translate_write_errors(self._folder):
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            with (self._folder / "output").open("wb") as output, (self._folder / "log").open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603  # this very program
                    [sys.executable, "-P", "-m", "luthier", *serve], stdin=subprocess.DEVNULL, stdout=output,
                    stderr=log, start_new_session=True, cwd=self._workspace.folder,
                    env={**os.environ, **self._workspace.environment},
                )  # fmt: skip
        write_atomically(self._mark, unique_process_name_of(self._process.pid).encode())
        self.words, self._asked_at = model.words, time.monotonic()

    def ask(self, text: str) -> list[TrialAnswer]:
        """What each model answers to one question; `ModelError` where one cannot."""
        if self.state != "ready":
            raise InputError("no model is served", hint="start one first")
        if not text.strip() or len(text) > _MOST_CHARS:
            raise InputError("expected a question", hint=f"write at most {_MOST_CHARS:,} letters")
        self._asked_at = time.monotonic()
        return [self._answer(name, text) for name in self.names]

    def _answer(self, model: str, text: str) -> TrialAnswer:
        import httpx

        body = {
            "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": _TOKENS, "temperature": 0,
        }  # fmt: skip
        began = time.perf_counter()
        try:
            answer = httpx.post(f"{self._facts()['url']}/chat/completions", json=body, timeout=300, trust_env=False)
            response = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ModelError(f"{model} did not answer: {error}", hint="start it again") from error
        if answer.is_error:
            raise ModelError(f"{model} did not answer: {response['error']['message']}", hint="write another question")
        content = response["choices"][0]["message"].get("content") or ""
        return TrialAnswer(model, str(content), time.perf_counter() - began)

    def end_when_idle(self) -> None:
        """End it when nobody asked for a while: models take memory."""
        if self._process is not None and time.monotonic() - self._asked_at > _IDLE_S:
            self.stop()

    def stop(self) -> None:
        """End it, in order if it will."""
        process, self._process, self.words = self._process, None, []
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._mark.unlink(missing_ok=True)

    def end_leftover(self) -> None:
        """End what a studio that was killed left."""
        with suppress(FileNotFoundError):
            signal_process_group(self._mark.read_text(encoding="utf-8"), signal.SIGTERM)
            self._mark.unlink(missing_ok=True)

    @property
    def _mark(self) -> Path:
        return self._folder / "process"

    def _facts(self) -> dict[str, Any]:
        """What it printed once it was ready."""
        try:
            first = (self._folder / "output").read_bytes().partition(b"\n")[0]
            found = json.loads(first)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and "url" in found else {}
