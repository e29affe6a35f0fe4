"""Rows of models that transcribe (Whisper, Moonshine): one sound, and the text that is said in it.

The decoder of such a model reads no feature of a sound; it attends to the encoder's. So the first token of a row, which
starts the transcript, bears the sound's key: rows of one sound share what they begin with, and rows of two share
nothing. A text that the user writes beside the sound is Whisper's prompt: what was said before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.chat.media import (
    MEDIA_IDS,
    KnownMedium,
    MediaKind,
    MediaLayout,
    MediaProcessor,
    get_media_place,
)
from luthier.chat.messages import Media, Message
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.process import hide_transformers_output

if TYPE_CHECKING:
    from torch import Tensor

SPEECH_TYPES = frozenset({"whisper", "moonshine"})
"""Types of models that transcribe: an encoder of sounds, and a decoder that attends to it."""
PREVIOUS = "<|startofprev|>"
"""What stands before Whisper's prompt."""
_TEXT = (
    "{%- set own = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set own.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] or [] -%}{%- if part['type'] == 'text' -%}"
    "{%- set own.text = own.text + part['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
)
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] != ('user' if loop.first else 'assistant') or loop.index > 2 -%}"
    "{{ raise_exception('a model that transcribes takes one user turn with a sound, and its answer') }}{%- endif -%}"
    f"{_TEXT}"
    "{%- if loop.first -%}"
    "{%- if own.text | trim and previous -%}{{ previous + ' ' + own.text | trim }}{%- endif -%}"
    "{%- if own.text | trim and not previous -%}{{ own.text | trim }}{%- endif -%}"
    "{{ start }}{%- if language -%}{{ '<|' + language + '|><|' + task + '|>' }}{%- endif -%}{{ after }}"
    "{%- else -%}{{ own.text + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)
"""The decoder's tokens around a transcript, as `WhisperTokenizer` and Moonshine's generation write them."""


def is_speech_folder(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a model that transcribes."""
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("model_type") in SPEECH_TYPES


class SpeechProcessor(MediaProcessor):
    """transformers' feature extractor of a model that transcribes, with the tokens that its decoder begins with."""

    def __init__(
        self,
        extractor: Any,
        tokens: Mapping[str, int],
        *,
        template_options: Mapping[str, Any],
        languages: Mapping[str, int],
        max_seconds: float | None = None,
    ) -> None:
        """`tokens` are the ids of `start`, and of `previous` where the model takes prompts. Sounds of more than
        `max_seconds` are cut at that place."""
        self._extractor = extractor
        self._tokens = dict(tokens)
        self.template_options = dict(template_options)
        self.languages = dict(languages)
        """The tokens of the languages that the model may be told of, by code; none for a model of one language."""
        self.max_seconds = max_seconds
        self.max_pixels = None
        self.audio = None
        start: dict[MediaKind, int] = {"audio": tokens["start"]}
        self.feature_ids = start
        self.written = {"audio": str(template_options["start"])}
        self.digest = digest_of([json.loads(extractor.to_json_string()), max_seconds])
        self._known: dict[int, KnownMedium] = {}
        self._layouts, self._counts_pictures = {}, False

    @classmethod
    def load(cls, folder: Path, *, max_pixels: int | None = None, max_seconds: float | None = None) -> SpeechProcessor:
        """The feature extractor in a Hugging Face folder; `language`, `task` and, when not given, `max_seconds` are as
        `model.json` says."""
        from transformers import AutoFeatureExtractor, AutoTokenizer

        where = SourceLocation(file=str(folder))
        try:
            with hide_transformers_output():
                extractor = AutoFeatureExtractor.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            hint = "fetch the model again; it needs preprocessor_config.json and tokenizer.json"
            raise ModelError(f"the processor of sounds cannot be loaded: {error}", where=where, hint=hint) from error
        card, settings = _read(folder / "model.json"), _read(folder / "generation_config.json")
        config = {**_read(folder / "config.json"), **settings}
        start = int(config.get("decoder_start_token_id", config.get("bos_token_id", 1)))
        tokens = {"start": start}
        options: dict[str, Any] = {"start": tokenizer.convert_ids_to_tokens(start), "previous": "", "after": ""}
        options |= {"language": "", "task": "transcribe"}
        languages: dict[str, int] = {}
        if config["model_type"] == "whisper":
            tokens["previous"] = tokenizer.convert_tokens_to_ids(PREVIOUS)
            options |= {"previous": PREVIOUS, "after": "<|notimestamps|>"}
            if config.get("is_multilingual"):
                languages = {token.strip("<|>"): number for token, number in config.get("lang_to_id", {}).items()}
                language = card.get("language") or config.get("language") or getattr(tokenizer, "language", None)
                options["language"] = _pick_language(language, languages, where) if language else ""
                options["task"] = card.get("task") or config.get("task") or "transcribe"
        return cls(
            extractor,
            tokens,
            template_options=options,
            languages=languages,
            max_seconds=card.get("max_seconds") if max_seconds is None else max_seconds,
        )

    @property
    def rate(self) -> int:
        """Samples in a second of what the model hears."""
        return int(self._extractor.sampling_rate)

    @property
    def seconds(self) -> float | None:
        """How long a sound may be; None where the model sets no bound."""
        samples = getattr(self._extractor, "n_samples", None)
        return samples / self.rate if samples else None

    def is_cut(self, media: Media) -> bool:
        """Whether the end of a sound is left out."""
        return self.max_seconds is not None and media.seconds is not None and media.seconds > self.max_seconds

    def refuses(self, messages: Sequence[Message]) -> str:
        """Why a conversation cannot be read; empty where it can."""
        media = [medium for message in messages for medium in message.media]
        if [medium.kind for medium in media] != ["audio"] or not messages[0].media:
            return f"the model transcribes one sound of the first turn, and there are {_count(media)}"
        limit = self.seconds if self.max_seconds is None else min(self.max_seconds, self.seconds or self.max_seconds)
        if limit is not None and not self.is_cut(media[0]) and (media[0].seconds or 0) > limit:
            return f"the sound is longer than the {limit:g} seconds that the model hears"
        return ""

    def bind(self, ids: list[int]) -> list[int]:
        """Ids whose first one bears the sound's key, also where a prompt stands before the transcript."""
        if (previous := self._tokens.get("previous")) is None or not ids or ids[0] != previous:
            return ids
        started = next(token for token in ids if token >= MEDIA_IDS)
        return [started + 1, *ids[1:]]

    def restore(self, ids: Sequence[int]) -> list[int]:
        """Ids as transformers' tokenizer gives them."""
        names = ("start", "previous")
        return [token if token < MEDIA_IDS else self._tokens[names[get_media_place(token)]] for token in ids]

    def build_inputs(self, key: int, content: bytes) -> dict[str, Tensor]:
        """What the encoder reads of a sound, from its bytes: at the model's rate, cut to `max_seconds`."""
        from luthier.chat.media_codec import decode_audio, resample_audio

        samples, rate = decode_audio(content)
        samples = resample_audio(samples, rate, self.rate)
        if self.max_seconds is not None:
            samples = samples[: int(self.max_seconds * self.rate)]
        limit = getattr(self._extractor, "n_samples", None)
        if limit and len(samples) > limit:
            lasts = f"the sound lasts {len(samples) / self.rate:.1f} seconds; the model hears {limit / self.rate:g}"
            raise DataError(lasts, hint="cut it into pieces, or set `max_seconds` of the base model's step")
        found = self._extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        return {name: value for name, value in found.items() if name != "attention_mask"}  # alone: all of it is sound

    def meet(self, media: Media, *, multi_image: bool = False) -> int:
        """Take note of a sound, and return the key that its row's first token bears."""
        if media.kind != "audio":
            raise DataError("the model reads no pictures", hint="choose another model, or drop these rows")
        return super().meet(media)

    def _lay_out(self, media: Media, *, multi_image: bool) -> MediaLayout:
        return MediaLayout(self.written["audio"], 1, (0, 0, 0))


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _pick_language(name: str, known: Mapping[str, int], where: SourceLocation) -> str:
    """A language by its code or its English name, as `WhisperTokenizer` takes it."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    code = str(TO_LANGUAGE_CODE.get(name.lower(), name.lower()))
    if code not in known:
        some = ", ".join(sorted(known)[:8])
        raise ModelError(f"the model knows no language {name!r}", where=where, hint=f"languages that it knows: {some}")
    return code


def _count(media: Sequence[Media]) -> str:
    sounds = sum(medium.kind == "audio" for medium in media)
    return f"{sounds} sounds and {len(media) - sounds} pictures"
