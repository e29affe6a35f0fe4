"""Transcribe speech with a Whisper model, with the time of each word."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.media_codec import resample_audio
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import translate_write_errors
from luthier.core.hashing import digest_of
from luthier.core.system.packages import wheel_cache
from luthier.core.system.process import hide_transformers_output
from luthier.models.catalog import CATALOG, resolve_model_source
from luthier.models.describe import read_json_object
from luthier.models.source import ModelSource

if TYPE_CHECKING:
    import numpy as np

_RATE = 16_000


class SpokenWord(NamedTuple):
    """A word of a transcript: the span of the text that it is, and when it is said, in seconds."""

    start: int
    end: int
    begin_s: float
    end_s: float


class Transcript(NamedTuple):
    """A text, and its words in order."""

    text: str
    words: tuple[SpokenWord, ...]

    def find_seconds(self, start: int, end: int) -> tuple[float, float] | None:
        """When the words that a span of the text touches begin and end; None where it touches none."""
        touched = [word for word in self.words if word.start < end and start < word.end]
        if not touched:
            return None
        return min(word.begin_s for word in touched), max(word.end_s for word in touched)


def transcribe(samples: np.ndarray[Any, Any], rate: int, folder: Path) -> Transcript:
    """What is said, by the Whisper model in a folder, in float32; each sound is read alone."""
    audio = resample_audio(samples, rate, _RATE)
    with hide_transformers_output():
        found = _open_pipeline(folder)({"raw": audio.copy(), "sampling_rate": _RATE}, return_timestamps="word")
    parts: list[str] = []
    words: list[SpokenWord] = []
    at, last = 0, len(audio) / _RATE
    for chunk in found["chunks"]:
        begin, end = chunk["timestamp"]
        words.append(SpokenWord(at, at + len(chunk["text"]), float(begin or 0.0), last if end is None else float(end)))
        parts.append(chunk["text"])
        at += len(chunk["text"])
    return Transcript("".join(parts), tuple(words))


def find_transcriber(model: str | ModelSource, recipe_dir: Path) -> ModelSource:
    """Where a model that transcribes is taken from."""
    return resolve_model_source(model, recipe_dir, CATALOG)


def open_transcriber_folder(source: ModelSource, recipe_dir: Path, say: Callable[[str], None]) -> Path:
    """A Hugging Face folder of the model, which is fetched or converted once and kept in the user's cache."""
    folder = wheel_cache().parent / "transcribers" / digest_of([source.settings(), source.identity(recipe_dir)])
    if (folder / "config.json").is_file():
        return folder
    with translate_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetch."))
        try:
            source.fetch(aside, recipe_dir, say)
            if not folder.exists():
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def _open_pipeline(folder: Path) -> Any:
    import torch
    from transformers import AutomaticSpeechRecognitionPipeline, WhisperForConditionalGeneration, WhisperProcessor

    where = SourceLocation(file=str(folder))
    hint = "name a Whisper model, such as `whisper-tiny.en`"
    if (kind := read_json_object(folder / "config.json").get("model_type")) != "whisper":
        raise ModelError(f"is a model of type {kind!r}, and one that transcribes is wanted", where=where, hint=hint)
    try:
        options = {"local_files_only": True, "attn_implementation": "eager"}  # eager tells where words are heard
        model = WhisperForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32, **options).eval()
        processor = WhisperProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model that transcribes cannot be read: {error}", where=where, hint=hint) from error
    if getattr(model.generation_config, "alignment_heads", None) is None:
        hint = "take a model whose generation_config.json has `alignment_heads`, as OpenAI's have"
        raise ModelError("the model cannot tell when words are said", where=where, hint=hint)
    return AutomaticSpeechRecognitionPipeline(
        model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
    )
