"""Personal data in what is said in sounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from luthier.chat.media_codec import KeptMedia, decode_audio, encode_wav, keep_media
from luthier.core.component import BasicMarker
from luthier.data.media.operator import MediaFinding, MediaOperator
from luthier.data.media.transcript import Transcript, find_transcriber, open_transcriber_folder, transcribe
from luthier.data.operator import Column, Reads
from luthier.models.source import ModelSource
from luthier.pii.detect import find_pii
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PATTERN_KINDS, PiiKind

if TYPE_CHECKING:
    import numpy as np

_MARGIN_S = 0.25
"""So much is covered before and after a find: times of words are no surer."""
_BEEP_HZ, _BEEP_LEVEL = 1000.0, 0.1
_SECONDS_A_BYTE = 1e-5
"""Of one core: about a second for ten seconds of speech at 16 kHz."""
_NUMBER = re.compile(r"\d(?:[\s.,-]{0,2}\d){6,}")
"""Seven digits and more: of a number that is misheard, no checksum is right."""
_WORD = re.compile(r"\S+")
_DOMAINS = (".com", ".org", ".net", ".edu", ".gov", ".de", ".fr", ".uk", ".eu", ".io")
_SPELLED_WORDS = 8
"""Words of a spelled out domain at most."""


def _as_source(value: Any) -> Any:
    return ModelSource.parse(value) if isinstance(value, Mapping) else value


class AudioPii(MediaOperator):
    """Transcribe sounds, find personal data in the transcript as `pii` does, and silence the seconds, drop, or report.

    Numbers of seven digits and more, and mail addresses that are spelled out, count as found, since a misheard number
    passes no checksum. Sounds become WAV of one channel. Events name kinds and digests, never what was said. What the
    model mishears stays: listen to a sample. It never suggests itself: it takes a second or more for each sound.
    """

    kind: Literal["audio_pii"] = "audio_pii"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt",)
    writes: ClassVar[Mapping[str, Column]] = {"found": "count"}
    is_private: ClassVar[bool] = True
    medium: ClassVar[Literal["image", "audio"]] = "audio"
    suggested_at: ClassVar[int] = 23

    action: Annotated[Literal["silence", "beep", "drop", "flag"], BasicMarker()] = "silence"
    """`silence` and `beep` replace the seconds, `drop` leaves the row out, `flag` only counts."""
    model: Annotated[str | ModelSource, BeforeValidator(_as_source)] = "whisper-tiny.en"
    """A Whisper model that tells when words are said: a name (`whisper-tiny.en`, English, 75 MB from the package
    index), a folder, OWNER/NAME on the hub, or a model source with its settings."""
    kinds: tuple[PiiKind, ...] = PATTERN_KINDS
    """What is looked for by patterns; what `ner` knows comes to it."""
    ner: Recognizer | None = None
    """A model that finds persons and more, as in `pii`."""

    @property
    def outcome(self) -> Literal["redact", "drop", "flag"]:
        return "redact" if self.action in ("silence", "beep") else self.action  # type: ignore[return-value]  # the two others

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The identity of the model's source."""
        return find_transcriber(self.model, recipe_dir).identity(recipe_dir)

    def gather(self, recipe_dir: Path, say: Callable[[str], None]) -> None:
        """Fetch the model, when it is not here and its source fetches."""
        open_transcriber_folder(find_transcriber(self.model, recipe_dir), recipe_dir, say)

    def model_s(self, size: int) -> float:
        """What transcribing takes."""
        return size * _SECONDS_A_BYTE

    def find(self, content: bytes) -> list[MediaFinding]:
        """The seconds of each find."""
        source = find_transcriber(self.model, self._recipe_dir)
        folder = open_transcriber_folder(source, self._recipe_dir, lambda text: None)
        return self.find_in_transcript(transcribe(*decode_audio(content), folder))

    def find_in_transcript(self, transcript: Transcript) -> list[MediaFinding]:
        """Where personal data is said."""
        text = transcript.text
        named = self.ner.find_names([text])[0] if self.ner else []
        requested = (*self.kinds, *(self.ner.finds if self.ner else ()))
        spans: list[tuple[str, int, int]] = [
            (span.kind, span.start, span.end) for span in find_pii(text, requested, named)
        ]
        numbers = [("number", *match.span()) for match in _NUMBER.finditer(text)] if "phone" in requested else []
        mails = [("email", *span) for span in find_spelled_mail(text)] if "email" in requested else []
        for name, start, end in (*numbers, *mails):
            if not any(begin < end and start < stop for _, begin, stop in spans):
                spans.append((name, start, end))
        ordered = sorted(spans, key=lambda span: span[1])
        return [
            MediaFinding(kind, (max(0.0, round(times[0] - _MARGIN_S, 3)), round(times[1] + _MARGIN_S, 3)))
            for kind, start, end in ordered
            if (times := transcript.find_seconds(start, end)) is not None
        ]

    def redact(self, content: bytes, findings: Sequence[MediaFinding]) -> KeptMedia:
        samples, rate = decode_audio(content)
        samples = samples.copy()
        for _, (begin, end, *_) in findings:
            part = samples[int(begin * rate) : int(end * rate) + 1]
            part[:] = _beep(len(part), rate) if self.action == "beep" else 0
        return keep_media(encode_wav(samples, rate))


def find_spelled_mail(text: str) -> list[tuple[int, int]]:
    """Spans of mail addresses as they are said (`jo dot smith at example dot com`), and of what was heard as one word
    with the ending of a domain."""
    words = [match.span() for match in _WORD.finditer(text)]
    plain = [text[start:end].lower().strip(".,;:!?") for start, end in words]
    found: list[tuple[int, int]] = []
    for index, word in enumerate(plain):
        if word.endswith(_DOMAINS) and (not found or found[-1][1] <= words[index][0]):
            found.append(words[index])
        if word != "at" or not 0 < index < len(plain) - 1:
            continue
        last = index + 1
        while last + 2 < len(plain) and last - index < _SPELLED_WORDS and plain[last + 1] == "dot":
            last += 2
        first = index - 1
        while first >= 2 and index - first < _SPELLED_WORDS and plain[first - 1] == "dot":
            first -= 2
        if last > index + 1 or plain[last].endswith(_DOMAINS):
            found = [span for span in found if span[1] <= words[first][0]]
            found.append((words[first][0], words[last][1]))
    return found


def _beep(length: int, rate: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return (_BEEP_LEVEL * np.sin(2 * np.pi * _BEEP_HZ * np.arange(length) / rate)).astype(np.float32)
