"""Ids and features of rows that are transcribed are those of transformers' own processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import WhisperProcessor

from luthier.chat.media import MEDIA_IDS, MediaProcessor
from luthier.chat.media_codec import decode_audio, resample_audio
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.chat.speech import SpeechProcessor
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError, ModelError
from spoken import FAMILIES, sound, spoken, tiny_speech

FIRST, FIRST_BYTES = sound(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_speech(tmp_path_factory.mktemp("whisper"))


def told(folder: Path, target: Path, **card: object) -> Path:
    """The same model with settings of its base step."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / "model.json").write_text(json.dumps({"name": "whisper", **card}))
    return target


@pytest.mark.parametrize(("language", "task"), [(None, None), ("de", "transcribe"), ("English", "translate")])
def test_ids_are_the_processors_own(folder: Path, tmp_path: Path, language: str | None, task: str | None) -> None:
    own = told(folder, tmp_path / "own", **({"language": language, "task": task} if language else {}))
    text, processor = ChatTokenizer.load(own), WhisperProcessor.from_pretrained(folder)
    processor.tokenizer.set_prefix_tokens(language=language.lower() if language else None, task=task)
    row = text.encode(spoken(FIRST, " one two"))
    assert text.plain_ids(row.ids) == processor(text=" one two").input_ids
    assert row.ids[0] >= MEDIA_IDS
    assert [text.plain_ids([id_])[0] for id_, learnt in zip(row.ids, row.loss_mask, strict=True) if learnt] == (
        [*processor.tokenizer(" one two", add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
    )
    assert row.ids[: len(text.prompt(spoken(FIRST, "")[:1]))] == text.prompt(spoken(FIRST, "")[:1])


def test_a_prompt_is_whispers(folder: Path) -> None:
    text, processor = ChatTokenizer.load(folder), WhisperProcessor.from_pretrained(folder)
    row = text.encode(spoken(FIRST, " one", "two tw "))
    expected = [*processor.tokenizer.get_prompt_ids("two tw"), *processor.tokenizer(" one").input_ids]
    assert text.plain_ids(row.ids) == list(map(int, expected))
    assert row.ids[0] >= MEDIA_IDS, "rows of two sounds share no prompt"


def test_a_typed_special_token_is_text(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    row = text.encode(spoken(FIRST, " one<|endoftext|>"))
    assert row.ids.count(text.tokenizer.eos_token_id) == 1
    assert text.decode(row.ids).count("<|endoftext|>") == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_extractors_at_its_rate(family: str, tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor

    tiny_speech(tmp_path, family)
    processor, extractor = MediaProcessor.load(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(processor, SpeechProcessor)
    media, content = sound(4, 0.5, rate=8_000)
    samples, rate = decode_audio(content)
    expected = extractor(resample_audio(samples, rate, 16_000), sampling_rate=16_000, return_tensors="pt")
    ((name, found),) = processor.build_inputs(processor.meet(media), content).items()
    assert torch.equal(found, expected[name])


def test_long_sounds_are_refused_or_cut(folder: Path, tmp_path: Path) -> None:
    media, content = sound(5, 2.5)
    row = ChatTokenizer.load(folder).encode(spoken(media, " one"))
    assert row.nothing == "the sound is longer than the 2 seconds that the model hears"
    with pytest.raises(DataError, match="longer than the 2 seconds"):
        ChatTokenizer.load(folder).prompt(spoken(media, "")[:1])
    text = ChatTokenizer.load(told(folder, tmp_path / "cut", max_seconds=1.5))
    row = text.encode(spoken(media, " one"))
    assert (row.nothing, row.cut) == ("", "prompt")
    assert text.media is not None
    cut = text.media.build_inputs(text.media.meet(media), content)["input_features"]
    whole = ChatTokenizer.load(folder).media
    assert whole is not None
    assert whole.digest != text.media.digest
    with pytest.raises(DataError, match=r"lasts 2\.5 seconds; the model hears 2"):
        whole.build_inputs(whole.meet(media), content)
    assert cut.shape[-1] == 200


@pytest.mark.parametrize(
    "messages",
    [
        (Message(role="user", content="hello"), Message(role="assistant", content="one")),
        (Message(role="user", content=2 * MEDIA_MARK, media=(FIRST, FIRST)), Message(role="assistant", content="one")),
    ],
)
def test_a_row_has_one_sound(folder: Path, messages: tuple[Message, ...]) -> None:
    row = ChatTokenizer.load(folder).encode(messages) if not messages[0].media else None
    if row is not None:
        assert row.nothing.startswith("the model transcribes one sound of the first turn")
    else:
        with pytest.raises((DataError, ModelError)):
            ChatTokenizer.load(folder).encode(messages)


def test_a_language_that_the_model_does_not_know(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="knows no language 'fr'"):
        ChatTokenizer.load(told(folder, tmp_path / "own", language="fr"))


def test_a_transcript_that_is_too_long_loses_its_end(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    row = text.encode(spoken(FIRST, " one two three four"), max_tokens=6)
    assert len(row.ids) == 6
    assert row.cut == "answer"
    assert row.ids[0] >= MEDIA_IDS
