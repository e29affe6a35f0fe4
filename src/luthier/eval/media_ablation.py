"""The blind baseline: the same model, shown grey pictures of the same sizes and silence of the same lengths; what it
still scores needs no picture and no sound."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from luthier.chat.messages import Media, Message
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.eval.local_model import LocalEvalModel
from luthier.eval.report.facts.models import BLIND
from luthier.eval.task import HeldOutTask, Reply

if TYPE_CHECKING:
    from luthier.artifacts.media import MediaReader
    from luthier.chat.media_codec import KeptMedia
    from luthier.chat.messages import Example

TITLE = gettext_noop("the same model shown grey pictures")
SILENT_TITLE = gettext_noop("the same model given silence")
GREY = (128, 128, 128)
SILENT_RATE = 16_000
"""Samples in a second of silence whose sound has no known rate."""


class EvalMedia:
    """The bytes of a data set's media, and of pictures and sounds that are made to take their place."""

    def __init__(self, data: Artifact | None) -> None:
        """Without a data set there are none."""
        self._data = data
        self._made: dict[str, bytes] = {}

    def read(self, digest: str) -> bytes:
        """The bytes of a medium."""
        return self._made[digest] if digest in self._made else self._reader.read(digest)

    def add(self, kept: KeptMedia) -> None:
        """Take in a picture or a sound that was made for the evaluation."""
        self._made[kept.media.digest] = kept.content

    def blind(self, media: Media) -> Media:
        """A grey picture of the same size, or silence of the same length."""
        value, name = (_silence(media), "wav") if media.kind == "audio" else (_grey(media), "png")
        digest = hashlib.sha256(value).hexdigest()
        self._made[digest] = value
        return media.model_copy(update={"digest": digest, "format": name, "size": len(value)})

    @cached_property
    def _reader(self) -> MediaReader:
        from luthier.artifacts.media import MediaReader

        if self._data is None:
            raise ModelError("these rows come with no pictures or sounds", hint="ask from a data set that has them")
        return MediaReader(self._data)


class BlindEvalModel(LocalEvalModel):
    """A model that sees grey images and silent audio in every row."""

    is_model = False

    def __init__(self, model: LocalEvalModel, media: EvalMedia, *, silent: bool = False) -> None:
        """`silent` where rows have sounds and no pictures."""
        self.lm, self.name, self.title = model.lm, BLIND, SILENT_TITLE if silent else TITLE
        self.digest = digest_of([model.digest, BLIND, GREY])
        self._question, self._media = model._question, media

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Answer some rows of a task without their pictures and sounds."""
        blinded = [
            example.model_copy(update={"messages": tuple(map(self._blinded, example.messages))}) for example in examples
        ]
        return super().answer(blinded, task)

    def _blinded(self, message: Message) -> Message:
        if not message.media:
            return message
        return message.model_copy(update={"media": tuple(map(self._media.blind, message.media))})


def list_media_kinds(task: HeldOutTask) -> set[str]:
    """The kinds of media that rows of a task have."""
    return {medium.kind for example in task.examples for message in example.messages for medium in message.media}


def _grey(media: Media) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (media.width or 1, media.height or 1), GREY).save(content, "PNG")
    return content.getvalue()


def _silence(media: Media) -> bytes:
    import numpy as np

    from luthier.chat.media_codec import encode_wav

    rate = media.rate or SILENT_RATE
    return encode_wav(np.zeros(max(1, round((media.seconds or 1) * rate)), np.float32), rate)
