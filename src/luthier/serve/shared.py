"""One base in memory under all models that are adapters over it: they are written by one decoder, each as itself."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.artifact import Artifact
from luthier.serve import bases
from luthier.serve.writer import Writer

if TYPE_CHECKING:
    from luthier.models.decoder import Decoder
    from luthier.models.load import Dtype, Loaded


class Room(NamedTuple):
    """How much one decoder does at once, and in what; models share a base only where they agree on it."""

    tokens: int
    at_once: int
    waiting: int
    dtype: Dtype


class Base(bases.Base):
    """Open weights with their writer, under one model or several."""

    def __init__(self, loaded: Loaded, room: Room) -> None:
        from luthier.models.decoder import Decoder

        self._loaded, self._model = loaded, loaded.model
        self.vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self.writer = Writer(
            lambda: Decoder(self._now(), tokens=room.tokens), waiting=room.waiting, at_once=room.at_once
        )

    def add(self, artifact: Artifact) -> str:
        """Put an adapter over it, between two steps of what is being written, and name it."""
        from luthier.models.load import ADAPTER, weights_of
        from luthier.models.over import add_adapter

        name = f"over{next(_NUMBERS)}"
        folder = weights_of(artifact).folder / ADAPTER
        self.writer.work(lambda decoder: self._adopt(decoder, add_adapter(self._model, folder, name)))
        return name

    def take(self, name: str) -> None:
        """Take an adapter away, for which nothing is written any more."""
        from luthier.models.over import take_adapter

        self.writer.work(lambda decoder: self._adopt(decoder, take_adapter(self._model, name)))

    def _adopt(self, decoder: Decoder, model: object) -> None:
        self._model = model
        decoder.adopt(model)

    def _now(self) -> Loaded:
        return replace(self._loaded, model=self._model)


class Standing:
    """One model on a base, by the adapter that speaks for it."""

    def __init__(self, base: Base, adapter: str | None) -> None:
        self.base, self.adapter = base, adapter

    def leave(self) -> None:
        """Take the model away; the base is closed with the last that stands on it."""
        from luthier.models.decoding.ask import BASE

        if _OPEN.leave(self.base):
            self.base.writer.close()
        elif self.adapter not in (None, BASE):
            self.base.take(str(self.adapter))


_NUMBERS = count(1)
_OPEN = bases.Bases[tuple[str, Room], Base]()
"""By the digest of its weights and by its room: the bases on which more than one model may stand."""


def stand(model: Artifact, room: Room) -> Standing:
    """Open a model: plain LoRA over a base that others may stand on, what can share none with weights of its own."""
    from luthier.models.decoding.ask import BASE
    from luthier.models.load import is_adapter, load, weights_of
    from luthier.models.over import can_share

    if not can_share(model):
        base = Base(load(model, room.dtype), room)
        base.standing = 1
        return Standing(base, None)
    base = _shared(model, room)
    standing = Standing(base, BASE)
    if is_adapter(weights_of(model)):
        with ExitStack() as undo:
            undo.callback(standing.leave)
            standing.adapter = base.add(model)
            undo.pop_all()
    return standing


def _shared(model: Artifact, room: Room) -> Base:
    """The base of a model, on which one more stands."""
    from luthier.models.load import base_of, load_base, weights_digest

    key = weights_digest(base_of(model)), room
    return _OPEN.stand(key, lambda: Base(load_base(model, room.dtype), room))
