"""The in-process engine: a decoder loop in a thread, over one base model.

Requests wait in a queue, are decoded together, and are aborted when the client disconnects. All models that are
adapters over the same base share its weights and one decoder.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.system.process import run_into_future
from luthier.serve import base_models
from luthier.serve.openai.protocol import APIError, ModelUnavailableError, ServerBusyError, to_api_error
from luthier.serve.request import RequestMedia

if TYPE_CHECKING:
    from luthier.chat.media import MediaProcessor
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.generation.engine import ContinuousBatchingDecoder
    from luthier.models.generation.sampling import GenerationRequest, TokenOutput
    from luthier.models.load import Dtype, LoadedModel

T = TypeVar("T")


class EngineOutput(NamedTuple):
    """The next token of a request, or the error that ends it."""

    written: TokenOutput | None = None
    cached: int = 0
    """Prompt tokens that were found in the prefix cache."""
    refusal: APIError | None = None


class DecodeJob:
    """One running request."""

    def __init__(self, ask: GenerationRequest, tell: Callable[[DecodeJob, EngineOutput], None]) -> None:
        self.ask, self.tell = ask, tell
        self.came = time.monotonic()
        self.ticket: int | None = None
        self.cached: int | None = None
        self.over = False


class EngineLoop:
    """Runs a decoder in a thread of its own and passes tokens to requests; all methods may be called from any thread.
    All its methods may be called from any thread; `tell` is called from the writer's own."""

    def __init__(self, make: Callable[[], ContinuousBatchingDecoder], *, waiting: int, at_once: int) -> None:
        """Start the loop; `make` builds the decoder, again after a failure; at most `waiting` requests queue."""
        self._make, self._most_waiting, self._at_once = make, waiting, at_once
        self._decoder = make()
        self._lock = threading.Condition()
        self._line: deque[DecodeJob] = deque()
        self._written: dict[int, DecodeJob] = {}
        self._gone: list[DecodeJob] = []
        self._works: deque[Callable[[ContinuousBatchingDecoder], None]] = deque()
        self._closing = False
        self._pace_s = 1.0
        """Seconds that an ask took of late, from its coming to its end."""
        self._thread = threading.Thread(target=self._run, name="luthier-writer", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """Context length of the model."""
        return self._decoder.context

    @property
    def waiting(self) -> int:
        """Asks that are not begun."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Asks that are being written."""
        return len(self._written)

    def submit(
        self, asks: Sequence[GenerationRequest], tell: Callable[[DecodeJob, EngineOutput], None]
    ) -> list[DecodeJob]:
        """Accept all of several requests, or none: `ServerBusyError` when too many wait."""
        jobs = [DecodeJob(ask, tell) for ask in asks]
        with self._lock:
            if self._closing:
                raise ModelUnavailableError("the model is being closed")
            if len(self._line) + len(self._written) + len(jobs) > self._most_waiting + self._at_once:
                raise ServerBusyError(f"{len(self._line)} answers wait already", retry_after_s=self._retry_after_s())
            self._line.extend(jobs)
            self._lock.notify()
        return jobs

    def cancel(self, jobs: Sequence[DecodeJob]) -> None:
        """Write no more for these; those that are over are let be."""
        with self._lock:
            left = [job for job in jobs if not job.over]
            if left:
                self._gone += left
                self._lock.notify()

    def work(self, verb: Callable[[ContinuousBatchingDecoder], T]) -> T:
        """Do something with the decoder between two steps, in the writer's thread, and wait for what comes of it."""
        future = Future[T]()
        with self._lock:
            if self._closing:
                raise ModelUnavailableError("the model is being closed")
            self._works.append(lambda decoder: run_into_future(future, lambda: verb(decoder)))
            self._lock.notify()
        return future.result()

    def close(self) -> None:
        """End everything, and the thread."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _retry_after_s(self) -> float:
        return min(60.0, self._pace_s * (1 + len(self._line) / self._at_once))

    def _run(self) -> None:
        while self._await_work():
            while self._works:
                self._works.popleft()(self._decoder)
            try:
                self._admit()
                self._step()
            except Exception as error:  # noqa: BLE001  # a step concerns everybody in it: each is told, and the next begins anew
                self._fail(error)
        for work in self._works:  # came before the end was known
            work(self._decoder)
        self._decoder.close()
        for job in [*self._line, *self._written.values()]:
            self._end(job, EngineOutput(refusal=ModelUnavailableError("the model was closed")))

    def _await_work(self) -> bool:
        """Wait for work, and drop requests without a reader; False when the loop ends."""
        with self._lock:
            while not (self._line or self._written or self._gone or self._works or self._closing):
                self._lock.wait()
            gone, self._gone = self._gone, []
            for job in gone:
                job.over = True
                if job.ticket is not None:
                    self._written.pop(job.ticket, None)
            if gone:
                self._line = deque(job for job in self._line if not job.over)
            closing = self._closing
        for job in gone:
            if job.ticket is not None:
                self._decoder.cancel(job.ticket)
        return not closing

    def _admit(self) -> None:
        """Begin those whose turn it is, as long as there is room; what can never be begun is refused."""
        while len(self._written) < self._at_once and self._line:
            job = self._line[0]
            try:
                ticket = self._decoder.admit(job.ask)
            except LuthierError as error:
                self._leave(job)
                self._end(job, EngineOutput(refusal=to_api_error(error)))
                continue
            if ticket is None:
                if not self._written:  # nothing will ever make room
                    self._leave(job)
                    what = f"prompt and answer together have {len(job.ask.ids) + job.ask.max_new_tokens} tokens"
                    refusal = APIError(f"{what}, more than the server's cache holds", param="max_tokens")
                    self._end(job, EngineOutput(refusal=refusal))
                    continue
                return
            self._leave(job)
            with self._lock:
                job.ticket = ticket
                self._written[ticket] = job

    def _leave(self, job: DecodeJob) -> None:
        with self._lock:
            self._line.remove(job)

    def _step(self) -> None:
        for written in self._decoder.step():
            job = self._written.get(written.ticket)
            if job is None:
                continue
            if job.cached is None:
                job.cached = self._decoder.cached_tokens(written.ticket)
            output = EngineOutput(written, job.cached)
            if written.finish is None:
                job.tell(job, output)
                continue
            self._pace_s += 0.2 * (time.monotonic() - job.came - self._pace_s)
            self._end(job, output)

    def _end(self, job: DecodeJob, output: EngineOutput) -> None:
        with self._lock:
            job.over = True
            if job.ticket is not None:
                self._written.pop(job.ticket, None)
        job.tell(job, output)

    def _fail(self, error: Exception) -> None:
        """Report an error to all running requests, and continue with a new decoder."""
        for job in list(self._written.values()):
            refusal = ModelUnavailableError(f"writing failed: {type(error).__name__}", status=500)
            refusal.__cause__ = error
            self._end(job, EngineOutput(refusal=refusal))
        self._decoder.close()
        self._decoder = self._make()


class EngineLimits(NamedTuple):
    """The limits of one decoder: cached tokens, concurrent and waiting requests, and its dtype."""

    tokens: int
    at_once: int
    waiting: int
    dtype: Dtype


class SharedDecoderBase(base_models.SharedBase):
    """Loaded weights with their engine loop, shared by one or several models (adapters)."""

    def __init__(self, loaded: LoadedModel, room: EngineLimits) -> None:
        from luthier.models.generation.engine import ContinuousBatchingDecoder

        self._loaded, self._model = loaded, loaded.model
        self.media = RequestMedia()
        self._processor: MediaProcessor | None = None
        self.vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self.writer = EngineLoop(
            lambda: ContinuousBatchingDecoder(self._now(), tokens=room.tokens),
            waiting=room.waiting,
            at_once=room.at_once,
        )

    def read_media_with(self, text: ChatTokenizer) -> None:
        """Read pictures and sounds by a tokenizer's processor; all models over the base share the first one's."""
        from luthier.models.media.towers import attach_media

        if text.media is None:
            return
        if self._processor is None or self._processor.digest != text.media.digest:
            self._processor = text.media
            attach_media(self._loaded.model, text.media, self.media.read)
        text.media = self._processor

    def add(self, artifact: Artifact) -> str:
        """Put an adapter over it, between two steps of what is being written, and name it."""
        from luthier.models.load import ADAPTER, get_weights_artifact
        from luthier.models.multi_lora import add_adapter

        name = f"over{next(_NUMBERS)}"
        folder = get_weights_artifact(artifact).folder / ADAPTER
        self.writer.work(lambda decoder: self._adopt(decoder, add_adapter(self._model, folder, name)))
        return name

    def take(self, name: str) -> None:
        """Take an adapter away, for which nothing is written any more."""
        from luthier.models.multi_lora import remove_adapter

        self.writer.work(lambda decoder: self._adopt(decoder, remove_adapter(self._model, name)))

    def _adopt(self, decoder: ContinuousBatchingDecoder, model: object) -> None:
        self._model = model
        decoder.switch_adapters(model)

    def _now(self) -> LoadedModel:
        return replace(self._loaded, model=self._model)


class ModelHandle:
    """One model on a shared base, by its adapter."""

    def __init__(self, base: SharedDecoderBase, adapter: str | None) -> None:
        self.base, self.adapter = base, adapter

    def leave(self) -> None:
        """Release the model; the base is freed with its last user."""
        from luthier.models.generation.sampling import BASE

        if _OPEN.leave(self.base):
            self.base.writer.close()
        elif self.adapter not in (None, BASE):
            self.base.take(str(self.adapter))


_NUMBERS = count(1)
_OPEN = base_models.SharedBasePool[tuple[str, EngineLimits], SharedDecoderBase]()
"""By the digest of its weights and by its room: the bases on which more than one model may stand."""


def open_decoder_model(model: Artifact, room: EngineLimits) -> ModelHandle:
    """Open a model: plain LoRA over a shared base, any other with weights of its own."""
    from luthier.models.generation.sampling import BASE
    from luthier.models.load import get_weights_artifact, is_adapter, load_model
    from luthier.models.multi_lora import can_share_base

    if not can_share_base(model):
        base = SharedDecoderBase(load_model(model, room.dtype), room)
        base.standing = 1
        return ModelHandle(base, None)
    base = _shared(model, room)
    standing = ModelHandle(base, BASE)
    if is_adapter(get_weights_artifact(model)):
        with ExitStack() as undo:
            undo.callback(standing.leave)
            standing.adapter = base.add(model)
            undo.pop_all()
    return standing


def _shared(model: Artifact, room: EngineLimits) -> SharedDecoderBase:
    """The base of a model, on which one more stands."""
    from luthier.models.load import compute_weights_digest, get_adapter_base, load_base

    key = compute_weights_digest(get_adapter_base(model)), room
    return _OPEN.stand(key, lambda: SharedDecoderBase(load_base(model, room.dtype), room))
