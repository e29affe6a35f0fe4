"""The engine of classifiers: shared base models, batched requests and calibrated probabilities.

Models with plain LoRA over the same base share its weights and run in turns. One thread takes all waiting requests, up
to a maximum, and computes them in one call.

Probabilities are scores of labels divided by one temperature, which maximizes the likelihood of held-out labels
(Guo et al. 2017). It keeps the order of the labels, so it changes no prediction.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.serve import base_models
from luthier.serve.openai.protocol import ModelUnavailableError, ServerBusyError

if TYPE_CHECKING:
    from luthier.models.load import Dtype, LoadedModel


class SharedClassifierBase(base_models.SharedBase):
    """Loaded classifier weights, shared by one or several models (adapters), one at a time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self.config = loaded.model.config
        self.lock = threading.Lock()

    def add(self, artifact: Artifact) -> str:
        """Put an adapter over it, and name it."""
        from luthier.models.kernels.lora import install_fused_lora
        from luthier.models.load import ADAPTER, get_weights_artifact
        from luthier.models.multi_lora import add_adapter

        name = f"reads{next(_NUMBERS)}"
        with self.lock:
            self._model = add_adapter(self._model, get_weights_artifact(artifact).folder / ADAPTER, name)
            self._model.requires_grad_(requires_grad=False)
            install_fused_lora(self._model)
        return name

    def take(self, name: str) -> None:
        """Remove an adapter while it is not in use."""
        from luthier.models.multi_lora import remove_adapter

        with self.lock:
            self._model = remove_adapter(self._model, name)

    @contextmanager
    def reading(self, adapter: str | None, *, shared: bool) -> Iterator[Any]:
        """Yield the model with one adapter active (or none), exclusively."""
        with self.lock, ExitStack() as stack:
            if adapter is not None:
                self._model.set_adapter(adapter, inference_mode=True)
            elif shared and hasattr(self._model, "disable_adapter"):
                stack.enter_context(self._model.disable_adapter())
            yield self._model


class SharedClassifier:
    """One classifier on a shared base."""

    def __init__(self, base: SharedClassifierBase, adapter: str | None, *, shared: bool) -> None:
        self.base, self._adapter, self._shared = base, adapter, shared

    @contextmanager
    def turn(self) -> Iterator[Any]:
        """The model, for as long as it reads."""
        with self.base.reading(self._adapter, shared=self._shared) as model:
            yield model

    def leave(self) -> None:
        """Release the model; the base is freed with its last user."""
        if not _OPEN.leave(self.base) and self._adapter is not None:
            self.base.take(self._adapter)


_NUMBERS = count(1)
_OPEN = base_models.SharedBasePool[tuple[str, "Dtype"], SharedClassifierBase]()
"""By the digest of its weights and by what it computes in: the bases on which more than one model may stand."""


def open_shared_classifier(model: Artifact, dtype: Dtype) -> SharedClassifier:
    """Open a classifier: plain LoRA over a shared base, any other with weights of its own."""
    from luthier.models.load import (
        compute_weights_digest,
        get_adapter_base,
        get_weights_artifact,
        is_adapter,
        load_base,
        load_model,
    )
    from luthier.models.multi_lora import can_share_base

    if not can_share_base(model):
        base = SharedClassifierBase(load_model(model, dtype))
        base.standing = 1
        return SharedClassifier(base, None, shared=False)
    key = compute_weights_digest(get_adapter_base(model)), dtype
    base = _OPEN.stand(key, lambda: SharedClassifierBase(load_base(model, dtype)))
    reader = SharedClassifier(base, None, shared=True)
    if not is_adapter(get_weights_artifact(model)):
        return reader
    with ExitStack() as undo:
        undo.callback(reader.leave)
        reader = SharedClassifier(base, base.add(model), shared=True)
        undo.pop_all()
    return reader


Argument = TypeVar("Argument")
Result = TypeVar("Result")


class _One(Generic[Argument, Result]):
    def __init__(self, request: Argument) -> None:
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self.over = False

    def tell(self, found: Result | None, error: Exception | None = None) -> None:
        """Called from the thread."""
        self.over = True
        try:
            self.loop.call_soon_threadsafe(self._set, found, error)
        except RuntimeError:
            return  # the loop is closed: nobody listens any more

    def _set(self, found: Result | None, error: Exception | None) -> None:
        if self.future.done():
            return  # whoever asked has gone
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(cast("Result", found))


class DynamicBatcher(Generic[Argument, Result]):
    """Collects single requests into batches for a function that answers many at once."""

    def __init__(self, work: Callable[[Sequence[Argument]], Sequence[Result]], *, at_once: int, waiting: int) -> None:
        self._work, self._at_once, self._most = work, at_once, waiting
        self._line: deque[_One[Argument, Result]] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self.running = 0
        """Requests that are being computed."""
        self._thread = threading.Thread(target=self._run, name="luthier-gathering", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._line)

    async def ask(self, request: Argument) -> Result:
        """The answer to one; `ServerBusyError` when too many wait."""
        one: _One[Argument, Result] = _One(request)
        with self._lock:
            if self._closing:
                raise ModelUnavailableError("the model is being closed")
            if len(self._line) >= self._most:
                raise ServerBusyError(f"{len(self._line)} requests wait already", retry_after_s=1.0)
            self._line.append(one)
            self._lock.notify()
        try:
            return await one.future
        finally:
            one.over = True

    def close(self) -> None:
        """Stop the thread; waiting requests fail."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        while some := self._next():
            found, error = self._tried(some)
            if error is None or len(some) == 1:
                self._tell(some, found, error)
            else:  # one of them may be to blame: nobody pays for what a stranger asked
                for entry in some:
                    self._tell([entry], *self._tried([entry]))
            self.running = 0
        for entry in self._line:
            entry.tell(None, ModelUnavailableError("the model was closed"))

    def _tried(self, some: Sequence[_One[Argument, Result]]) -> tuple[Sequence[Result], Exception | None]:
        try:
            return self._work([entry.request for entry in some]), None
        except Exception as error:  # noqa: BLE001  # it is told to whoever asked
            return (), error

    def _tell(self, some: Sequence[_One[Argument, Result]], found: Sequence[Result], error: Exception | None) -> None:
        if error is not None:
            for entry in some:
                entry.tell(None, _to_api_error(error))
        else:
            for entry, answer in zip(some, found, strict=True):
                entry.tell(answer)

    def _next(self) -> list[_One[Argument, Result]]:
        """Return the next batch; empty at the end. Cancelled requests are skipped."""
        with self._lock:
            while True:
                while not (self._line or self._closing):
                    self._lock.wait()
                if self._closing:
                    return []
                some: list[_One[Argument, Result]] = []
                while self._line and len(some) < self._at_once:
                    one = self._line.popleft()
                    if not one.over:
                        some.append(one)
                if some:
                    self.running = len(some)
                    return some


def _to_api_error(error: Exception) -> Exception:
    return (
        error
        if isinstance(error, LuthierError)
        else ModelUnavailableError(f"{type(error).__name__}: {error}", status=500)
    )


_LEAST_ROWS = 20
"""Minimum rows to fit a temperature."""
_BOUNDS = (0.05, 20.0)


def softmax_label_scores(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """The share of each label, from log-scores."""
    most = max(scores.values())
    shares = {label: math.exp((score - most) / temperature) for label, score in scores.items()}
    whole = sum(shares.values())
    return {label: share / whole for label, share in shares.items()}


def fit_temperature(rows: Sequence[Mapping[str, float]], truths: Sequence[str]) -> float | None:
    """The temperature under which the true labels are likeliest; None where there are too few rows."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    known = [(row, truth) for row, truth in zip(rows, truths, strict=True) if truth in row]
    if len(known) < _LEAST_ROWS:
        return None
    labels = sorted(known[0][0])
    scores = np.array([[row[label] for label in labels] for row, _ in known])
    right = np.array([labels.index(truth) for _, truth in known])

    def surprise(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        whole = np.logaddexp.reduce(scaled, axis=1)
        return float((whole - scaled[np.arange(len(right)), right]).mean())

    found = minimize_scalar(surprise, bounds=tuple(map(math.log, _BOUNDS)), method="bounded")
    return float(math.exp(found.x))
