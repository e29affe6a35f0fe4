"""One base in memory under all models that choose classes by plain LoRA over it: they read in turns, each as itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.serve import bases

if TYPE_CHECKING:
    from luthier.models.load import Dtype, Loaded


class Base(bases.Base):
    """Open weights under one model or several, of which one reads at a time."""

    def __init__(self, loaded: Loaded) -> None:
        loaded.model.requires_grad_(requires_grad=False)  # what is frozen may be kept in fp32 beside it
        self._model = loaded.model
        self.config = loaded.model.config
        self.lock = threading.Lock()

    def add(self, artifact: Artifact) -> str:
        """Put an adapter over it, and name it."""
        from luthier.models.load import ADAPTER, weights_of
        from luthier.models.lora_product import one_product
        from luthier.models.over import add_adapter

        name = f"reads{next(_NUMBERS)}"
        with self.lock:
            self._model = add_adapter(self._model, weights_of(artifact).folder / ADAPTER, name)
            self._model.requires_grad_(requires_grad=False)
            one_product(self._model)
        return name

    def take(self, name: str) -> None:
        """Take an adapter away, when nobody reads."""
        from luthier.models.over import take_adapter

        with self.lock:
            self._model = take_adapter(self._model, name)

    @contextmanager
    def reading(self, adapter: str | None, *, shared: bool) -> Iterator[Any]:
        """The model with one adapter in place (or none), while nobody else reads."""
        with self.lock, ExitStack() as stack:
            if adapter is not None:
                self._model.set_adapter(adapter, inference_mode=True)
            elif shared and hasattr(self._model, "disable_adapter"):
                stack.enter_context(self._model.disable_adapter())
            yield self._model


class Reader:
    """One model on a base."""

    def __init__(self, base: Base, adapter: str | None, *, shared: bool) -> None:
        self.base, self._adapter, self._shared = base, adapter, shared

    @contextmanager
    def turn(self) -> Iterator[Any]:
        """The model, for as long as it reads."""
        with self.base.reading(self._adapter, shared=self._shared) as model:
            yield model

    def leave(self) -> None:
        """Take the model away; the base goes with the last that stands on it."""
        if not _OPEN.leave(self.base) and self._adapter is not None:
            self.base.take(self._adapter)


_NUMBERS = count(1)
_OPEN = bases.Bases[tuple[str, "Dtype"], Base]()
"""By the digest of its weights and by what it computes in: the bases on which more than one model may stand."""


def open_reader(model: Artifact, dtype: Dtype) -> Reader:
    """Open a model: plain LoRA over a base that others may stand on, what can share none with weights of its own."""
    from luthier.models.load import base_of, is_adapter, load, load_base, weights_digest, weights_of
    from luthier.models.over import can_share

    if not can_share(model):
        base = Base(load(model, dtype))
        base.standing = 1
        return Reader(base, None, shared=False)
    key = weights_digest(base_of(model)), dtype
    base = _OPEN.stand(key, lambda: Base(load_base(model, dtype)))
    reader = Reader(base, None, shared=True)
    if not is_adapter(weights_of(model)):
        return reader
    with ExitStack() as undo:
        undo.callback(reader.leave)
        reader = Reader(base, base.add(model), shared=True)
        undo.pop_all()
    return reader
