"""Sounds as a model's processor reads them: its rate, its longest sound, what it writes and the numbers that it makes.

A sound is decoded, its channels are averaged and soxr brings it to the processor's rate, as transformers' `load_audio`
does with soundfile. How many tokens stand for a sound follows from its length alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from luthier.chat.messages import Media
from luthier.core.errors import DataError, ModelError, SourceLocation

if TYPE_CHECKING:
    import numpy as np

_VOXTRAL_FRAMES = 8
"""Mel frames that one token of Voxtral stands for: 12.5 tokens a second (mistral-common's `frame_rate`)."""

_USUAL_SECONDS = 30.0


@dataclass(frozen=True)
class AudioLayout:
    """What stands for a sound of some length."""

    text: str
    count: int
    """Tokens in it that are features of the sound."""


class AudioFrontEnd:
    """Reads sounds for one of transformers' processors."""

    def __init__(self, processor: Any, feature: str, *, max_seconds: float | None = None) -> None:
        """`feature` is the token that stands for each feature. Of a sound longer than `max_seconds`, that is, the first
        ones, are read."""
        self._processor, self._feature, self.max_seconds = processor, feature, max_seconds
        self._extractor = getattr(processor, "audio_processor", None) or processor.feature_extractor
        self.rate = int(self._extractor.sampling_rate)
        self.hears_seconds = self._find_longest()
        if max_seconds is not None and self.hears_seconds is not None and max_seconds > self.hears_seconds:
            raise ModelError(
                f"max_seconds is {max_seconds:g}, and the model hears at most {self.hears_seconds:g} seconds at once",
                where=SourceLocation(field="max_seconds"),
                hint=f"set max_seconds: {self.hears_seconds:g}, or leave it out",
            )
        self._layouts: dict[tuple[int, bool], AudioLayout] = {}

    def is_cut(self, media: Media) -> bool:
        """Whether a sound is longer than `max_seconds` and loses its end."""
        return media.kind == "audio" and self.max_seconds is not None and (media.seconds or 0.0) > self.max_seconds

    def refuses(self, media: Media) -> str:
        """Why a sound cannot be read; empty where it can."""
        limit_s = self.hears_seconds
        if limit_s is None or self.is_cut(media) or (media.seconds or 0.0) <= limit_s:
            return ""
        return f"the sound is longer than the {limit_s:g} seconds that the model hears"

    def lay_out(self, media: Media) -> AudioLayout:
        """What stands for a sound; for one that is longer than the model hears, what its beginning makes."""
        if not media.seconds or not media.rate:
            raise DataError(f"the length of the sound {media.digest} is unknown", hint="prepare the data set again")
        return self._lay_out_samples(self._limited(ceil(round(media.seconds * media.rate) * self.rate / media.rate)))

    def build_inputs(self, media: Media, content: bytes) -> dict[str, Any]:
        """What a model's tower reads of a sound, from its bytes; `DataError` for one that is too long for it."""
        if why := self.refuses(media):
            raise DataError(why, hint="cut it into pieces, or set `max_seconds` of the base model's step")
        samples = self.read(content)
        if self._lay_out_samples(len(samples)) != self.lay_out(media):
            raise DataError(
                f"the sound {media.digest} lasts {len(samples) / self.rate:g} seconds and was said to last "
                f"{media.seconds:g}",
                hint="prepare the data set again",
            )
        return self._process(samples)[0]

    def read(self, content: bytes) -> np.ndarray[Any, Any]:
        """The samples of a sound at the processor's rate, cut to `max_seconds`."""
        import numpy as np

        from luthier.chat.media_codec import decode_audio, resample_audio

        samples, rate = decode_audio(content)
        length = ceil(len(samples) * self.rate / rate)
        found = resample_audio(samples, rate, self.rate)[:length]
        return np.pad(found, (0, length - len(found)))[: self._limited(length)]

    def locate_features(self, media: Media) -> list[tuple[float, float]]:
        """From which second to which of its sound each feature tells, the encoder's wider view left aside."""
        count = self.lay_out(media).count
        length = min(media.seconds or 0.0, self.max_seconds or float("inf"))
        each = self._seconds_of_feature()
        return [(min(at * each, length), min((at + 1) * each, length)) for at in range(count)]

    def _seconds_of_feature(self) -> float:
        """How long a feature is: the pace at which longer sounds get more of them."""
        length = min(self.hears_seconds or _USUAL_SECONDS, self.max_seconds or _USUAL_SECONDS)
        if hasattr(self._processor, "_retrieve_input_features"):
            return _VOXTRAL_FRAMES * float(self._extractor.hop_length) / self.rate
        return length / max(1, self._lay_out_samples(int(self.rate * length)).count)

    def _find_longest(self) -> float | None:
        """Seconds that the processor keeps of a sound; None where it keeps all."""
        if hasattr(self._processor, "max_audio_len"):
            return float(self._processor.max_audio_len)
        if hasattr(self._processor, "_retrieve_input_features"):  # Voxtral reads window after window
            return None
        length = getattr(self._extractor, "chunk_length", None)
        return None if length is None else float(length)

    def _limited(self, length: int) -> int:
        return length if self.max_seconds is None else min(length, int(self.max_seconds * self.rate))

    def _lay_out_samples(self, length: int) -> AudioLayout:
        """What stands for so many samples: what they are makes no difference to the processor's text."""
        import numpy as np

        hop = int(getattr(self._extractor, "hop_length", 0) or self._extractor.melspec_kwargs["hop_length"])
        frames = length // hop, bool(length % hop)
        if frames not in self._layouts:
            _, text = self._process(np.zeros(length, np.float32))
            self._layouts[frames] = AudioLayout(text, text.count(self._feature))
        return self._layouts[frames]

    def _process(self, samples: np.ndarray[Any, Any]) -> tuple[dict[str, Any], str]:
        """The numbers of one sound, and what stands in its place."""
        processor = self._processor
        if hasattr(processor, "_retrieve_input_features"):
            options = dict(processor.audio_kwargs)
            most = options.pop("max_source_positions")
            values = processor._retrieve_input_features([samples], most, **options)
            return {"input_features": values}, self._feature * (len(values) * most // _VOXTRAL_FRAMES)
        options = processor._merge_kwargs(
            tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt", sampling_rate=self.rate
        )
        inputs, texts = processor._process_audio([samples], **options["audio_kwargs"])
        unused = frozenset(getattr(processor, "unused_input_names", ()))
        return {name: value for name, value in inputs.items() if name not in unused}, texts[0]
