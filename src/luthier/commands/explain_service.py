"""Explanations next to a running server: in a separate process, one at a time, with limits on tokens and time.

Gradients are computed there while the server answers. Personal data is masked as in traces. A key sees traces of its
own requests; training rows and traces of other keys need the scope `data`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.artifacts.explanation import ExplanationRecord
from luthier.chat.messages import Message
from luthier.commands.explain_worker import ExplanationTask
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, LuthierError
from luthier.core.system.process import python_command
from luthier.explain.masking import mask_explanation
from luthier.recipe.workspace import Workspace, open_shared_store
from luthier.serve.openai.protocol import AnswerTimeoutError, APIError, ModelUnavailableError, ServerBusyError
from luthier.traces.redact import Redactor
from luthier.traces.retention import RetentionPolicy

if TYPE_CHECKING:
    from luthier.serve.openai.server import Gateway
    from luthier.traces.api_keys import Caller
    from luthier.traces.record import Trace
    from luthier.traces.recorder import TraceRecorder

_REPLY_BYTES = 64 << 20
_KILL_S = 10.0
"""Seconds after which the process ends by itself where this one is gone."""
_FLUSH_S = 5.0
"""Seconds that a trace which was answered just now is waited for."""


@dataclass(frozen=True, kw_only=True)
class ExplanationLimits:
    """Limits of one explanation."""

    max_tokens: int = 4096
    """Tokens of the prompt with its answer."""
    deadline_s: float = 120.0
    """Seconds from its turn to its end, with the time that the weights take to be read."""
    waiting: int = 4
    """Requests that wait for their turn, at most."""


@dataclass(kw_only=True)
class ExplanationService:
    """Explains answers of served models."""

    workspace: Workspace
    gateway: Gateway
    recorder: TraceRecorder | None = None
    limits: ExplanationLimits = field(default_factory=ExplanationLimits)
    models: dict[str, Artifact] = field(default_factory=dict)
    """Models that are or were open, by digest."""

    def __post_init__(self) -> None:
        self._turn, self._waiting = asyncio.Lock(), 0
        self._worker: asyncio.subprocess.Process | None = None

    async def explain_conversation(
        self, model: str, messages: Sequence[Message], caller: Caller, options: Mapping[str, Any]
    ) -> tuple[str, list[ExplanationRecord]]:
        """Explain what a model answers to a conversation: its digest and the explanations."""
        digest, wrapped = await self.gateway.open_conversation(model, messages, caller)
        return digest, await self._explain(digest, caller, options, messages=wrapped)

    async def explain_row(
        self, model: str, row: str, caller: Caller, options: Mapping[str, Any]
    ) -> tuple[str, list[ExplanationRecord]]:
        """Explain what a model answers to a row of its data; `APIError` (403) without the scope `data`."""
        if not caller.may("data"):
            what = "this key may not read training rows: it lacks the scope 'data'"
            raise APIError(what, param="row", code="missing_scope", status=403)
        digest, _ = await self.gateway.open_conversation(model, (), caller)
        return digest, await self._explain(digest, caller, options, row=row)

    async def explain_trace(
        self, id: str, caller: Caller, options: Mapping[str, Any]
    ) -> tuple[str, list[ExplanationRecord]]:
        """Explain the answer that a kept request got, by the model that gave it."""
        from luthier.commands.explain import read_traced_answer

        trace = await asyncio.to_thread(self._find_trace, id)
        if trace is None or not (trace.key == caller.key or caller.may("data")):
            raise APIError(f"no trace {id[:200]!r} is kept", param="trace", code="trace_not_found", status=404)
        answer = read_traced_answer(trace, options.get("answer"))
        options = {**options, "answer": answer}
        return trace.release, await self._explain(trace.release, caller, options, messages=trace.messages)

    def _find_trace(self, id: str) -> Trace | None:
        from luthier.traces.store import read_trace_by_id

        if self.recorder is None:
            return None
        for wait in (False, True):
            with suppress(InputError):
                if not wait or self.recorder.flush(_FLUSH_S):
                    return read_trace_by_id(self.recorder.folder, id).trace
        return None

    async def _explain(
        self,
        digest: str,
        caller: Caller,
        options: Mapping[str, Any],
        *,
        messages: Sequence[Message] | None = None,
        row: str | None = None,
    ) -> list[ExplanationRecord]:
        model = await asyncio.to_thread(self._find_model, digest)
        task = ExplanationTask(
            store=str(model.folder.parent.parent), shared=str(open_shared_store().root), digest=digest,
            messages=None if messages is None else tuple(messages), row=row, options=dict(options),
            max_tokens=self.limits.max_tokens, deadline_s=self.limits.deadline_s + _KILL_S,
        )  # fmt: skip
        if self._waiting > self.limits.waiting:
            raise ServerBusyError(f"{self._waiting} explanations wait already", retry_after_s=self.limits.deadline_s)
        self._waiting += 1
        try:
            async with self._turn:
                reply = await self._ask(task)
        finally:
            self._waiting -= 1
        if "error" in reply:
            raise LuthierError.from_json(reply)
        records = [ExplanationRecord.model_validate(record) for record in reply["explanations"]]
        return await asyncio.to_thread(self._mask, records)

    def _find_model(self, digest: str) -> Artifact:
        """The model of a digest; `APIError` where it is gone or has no words to explain."""
        if digest in self.models:
            return self.models[digest]
        with suppress(LuthierError):
            found = self.workspace.find_digest(digest)
            if found.manifest.makes == "model":
                return found
        what = "the model that answered is not here, or is none that can be explained"
        raise APIError(what, param="model", code="unsupported_model")

    def _mask(self, records: Sequence[ExplanationRecord]) -> list[ExplanationRecord]:
        redactor = _open_redactor(self.recorder.keeping if self.recorder is not None else RetentionPolicy())
        return [mask_explanation(record, redactor) for record in records]

    async def _ask(self, task: ExplanationTask) -> dict[str, Any]:
        """Run a task in the process; a request that takes too long, or whose client disconnects, ends it."""
        worker = self._worker
        if worker is None or worker.returncode is not None:
            worker = self._worker = await _start_worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                worker.stdin.write(f"{task.model_dump_json()}\n".encode())
                await worker.stdin.drain()
                line = await worker.stdout.readline()
        except TimeoutError as error:
            await self.aclose()
            what = f"the explanation took more than {self.limits.deadline_s:g} s; take coarser units or another method"
            raise AnswerTimeoutError(what) from error
        except BaseException:
            await self.aclose()
            raise
        if not line:
            await self.aclose()
            raise ModelUnavailableError("explaining failed: its process ended", status=500)
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def aclose(self) -> None:
        """End the process."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.returncode is None:
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


async def _start_worker() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *python_command("-m", "luthier.commands.explain_worker"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_REPLY_BYTES, start_new_session=True,
        env=dict(os.environ),
    )  # fmt: skip


@lru_cache(maxsize=4)
def _open_redactor(policy: RetentionPolicy) -> Redactor:
    return Redactor(policy)
