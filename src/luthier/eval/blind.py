"""The blind baseline: the same model, shown grey pictures of the same sizes and played silence of the same lengths.

What it still scores needs no picture and no sound.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from luthier.chat.media import MediaKind
from luthier.chat.media_codec import encode_wav
from luthier.chat.messages import Media, Message
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.hashing import digest_of
from luthier.eval.ask import LocalEvalModel
from luthier.eval.report.facts.models import BLIND
from luthier.eval.task import HeldOutTask, Reply

if TYPE_CHECKING:
    from luthier.artifacts.media import MediaReader
    from luthier.chat.messages import Example

TITLES = {
    frozenset({"image"}): "the same model shown grey pictures",
    frozenset({"audio"}): "the same model played silence",
    frozenset({"image", "audio"}): "the same model shown grey pictures and played silence",
}
"""What it is called, by the kinds of media that the rows have."""
GREY = (128, 128, 128)


class EvalMedia:
    """The bytes of a data set's media, and of grey pictures and silence that take their place."""

    def __init__(self, data: Artifact | None) -> None:
        """Without a data set there are none."""
        self._data = data
        self._blank: dict[str, bytes] = {}

    def read(self, digest: str) -> bytes:
        """The bytes of a medium."""
        return self._blank[digest] if digest in self._blank else self._reader.read(digest)

    def blind(self, media: Media) -> Media:
        """A grey picture of the same size, or silence of the same length and rate."""
        value = _draw_grey(media) if media.kind == "image" else _write_silence(media)
        digest = hashlib.sha256(value).hexdigest()
        self._blank[digest] = value
        form = "png" if media.kind == "image" else "wav"
        return media.model_copy(update={"digest": digest, "format": form, "size": len(value)})

    @cached_property
    def _reader(self) -> MediaReader:
        from luthier.artifacts.media import MediaReader

        if self._data is None:
            raise ModelError("these rows come with no pictures or sounds", hint="ask from a data set that has them")
        return MediaReader(self._data)


def _draw_grey(media: Media) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (media.width or 1, media.height or 1), GREY).save(content, "PNG")
    return content.getvalue()


def _write_silence(media: Media) -> bytes:
    import numpy as np

    rate = media.rate or 1
    return encode_wav(np.zeros(max(1, round((media.seconds or 0) * rate)), np.float32), rate)


class BlindEvalModel(LocalEvalModel):
    """A model that answers every row as if its pictures were grey and its sounds silent; it is asked nothing else."""

    is_model = False

    def __init__(self, model: LocalEvalModel, media: EvalMedia, kinds: frozenset[MediaKind]) -> None:
        """`kinds` are those of the rows' media."""
        self.lm, self.name, self.title = model.lm, BLIND, TITLES[kinds]
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


def list_media_kinds(task: HeldOutTask) -> frozenset[MediaKind]:
    """The kinds of media that rows of a task have."""
    messages = (message for example in task.examples for message in example.messages)
    return frozenset(medium.kind for message in messages for medium in message.media)
