"""Personal data in what is said: which seconds are silenced, and what the books say of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.artifacts.dataset import read_examples
from luthier.artifacts.media import MediaReader
from luthier.chat.media_codec import decode_audio, encode_wav, resample_audio
from luthier.core.errors import ModelError
from luthier.core.system.packages import cached_wheel
from luthier.data.media.operator import MediaFinding
from luthier.data.media.transcript import SpokenWord, Transcript, transcribe
from luthier.data.ops.audio_pii import AudioPii, find_spelled_mail
from luthier.eval.probes.media_attacks import find_synthesizer, speak
from luthier.models.catalog import CATALOG
from vision_models import tiny_vision_model

Make = Callable[..., Any]
WHISPER = CATALOG["whisper-tiny.en"].source
has_model = pytest.mark.skipif(
    cached_wheel(WHISPER["package"], WHISPER["version"], WHISPER["sha256"]) is None or find_synthesizer() is None,
    reason="whisper-tiny.en or espeak-ng is not here",
)


def _transcript(*words: str) -> Transcript:
    """A transcript in which each word takes a second."""
    at, found = 0, []
    for second, word in enumerate(words):
        found.append(SpokenWord(at, at + len(word), float(second), second + 1.0))
        at += len(word)
    return Transcript("".join(words), tuple(found))


@pytest.mark.parametrize(
    ("words", "kind", "seconds"),
    [
        ((" Call", " +1", " 415", " 555", " 0143", " now."), "phone", (0.75, 5.25)),
        ((" My", " card", " is", " 4111", " 1111", " 1111", " 1111."), "card", (2.75, 7.25)),
        ((" Take", " 4", ",111", ",101", ",111", " of", " them."), "number", (0.75, 5.25)),
        ((" Write", " to", " jo", " dot", " smith", " at", " example", " dot", " com", " today."), "email", None),
        ((" That", " is", " jodotsmithatexample", ".com", " thanks."), "email", (1.75, 4.25)),
    ],
)
def test_what_is_said_is_found_where_it_is_said(
    words: tuple[str, ...], kind: str, seconds: tuple[float, float] | None
) -> None:
    findings = AudioPii().find_in_transcript(_transcript(*words))
    assert [finding.kind for finding in findings] == [kind]
    assert seconds is None or findings[0].position == seconds


def test_small_numbers_and_plain_words_are_none() -> None:
    assert AudioPii().find_in_transcript(_transcript(" The", " 20", " parcels", " arrive", " at", " 9", ".30")) == []
    told = _transcript(" Call", " +1", " 415", " 555", " 0143")
    assert AudioPii(kinds=("email",)).find_in_transcript(told) == []


@pytest.mark.parametrize("action", ["silence", "beep"])
def test_the_seconds_are_replaced_and_the_rest_stays(action: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 24000).astype(np.float32)
    content = encode_wav(samples, 8000)
    kept = AudioPii(action=action).redact(
        content, [MediaFinding("phone", (1.0, 2.0)), MediaFinding("email", (2.9, 9.0))]
    )
    after, rate = decode_audio(kept.content)
    before = decode_audio(content)[0]
    assert rate == 8000
    assert len(after) == len(before)
    assert np.allclose(after[:8000], before[:8000], atol=1e-4)
    assert np.allclose(after[16001:23200], before[16001:23200], atol=1e-4)
    part = after[8000:16000]
    if action == "silence":
        assert not part.any()
    else:
        assert np.abs(np.fft.rfft(part)).argmax() == 1000


def test_a_model_that_does_not_transcribe_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one that transcribes is wanted"):
        transcribe(np.zeros(16000, np.float32), 16000, tiny_vision_model(tmp_path / "model"))


@has_model
def test_spoken_numbers_are_silenced_in_the_data_set(make: Make, tmp_path: Path) -> None:
    for label, text in (
        ("call", "Please call me back at 4 1 5. 5 5 5. 0 1 4 3. Thank you."),
        ("plain", "Good morning."),
    ):
        (tmp_path / "calls" / label).mkdir(parents=True)
        samples, rate = speak(text)
        content = encode_wav(resample_audio(samples, rate, 16000), 16000)
        (tmp_path / "calls" / label / "a.wav").write_bytes(content)
    source = {"kind": "mediafolder", "path": "calls"}
    made = make(source=source, ops=["audio_pii"], split={"test": 0}, task="text")
    assert made.summary.edited == {"audio_pii": 1}
    (event,) = made.events.to_dicts()
    assert event["reason"] in ("phone", "number")
    with MediaReader(made.artifact) as reader:
        for example in read_examples(made.artifact, "train"):
            (media,) = example.messages[0].media
            samples, rate = decode_audio(reader.read(media.digest))
            heard = np.flatnonzero(np.append(samples, 1.0))
            silent_s = float(np.diff(heard, prepend=-1).max() / rate)
            assert (silent_s > 1) == (media.digest == event["after"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to jo dot smith at example dot co dot uk today.", ["jo dot smith at example dot co dot uk"]),
        ("mail info at shop.com, or jodotsmith.org", ["info at shop.com,", "jodotsmith.org"]),
        ("We meet at nine dot", []),
        ("at", []),
        ("Look at that. It is at home.", []),
    ],
)
def test_spelled_mail_is_found_word_by_word(text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in find_spelled_mail(text)] == found
