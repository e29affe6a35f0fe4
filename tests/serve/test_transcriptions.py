"""Transcripts over HTTP by OpenAI's own client: those of the model itself, together with others, and clear refusals."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.lm.base import GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.serve.engines.torch import TorchEngine
from serving import Served, serving
from spoken import sound, spoken, tiny_speech
from tuning import made
from vision_models import picture

SOUNDS = [sound(number) for number in range(4)]
BYTES = {media.digest: content for media, content in SOUNDS}
LONG, LONG_BYTES = sound(9, 2.5)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    place = tmp_path_factory.mktemp("whisper")
    source = tiny_speech(place / "model")

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / "model.json").write_text('{"name": "whisper"}')

    return made(Store(place / "store"), "whisper", "model", write)


@pytest.fixture(scope="module")
def gateway(whisper: Artifact, tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = {
        "whisper": lambda: TorchEngine(dtype="float32", max_new_tokens=12).open(whisper),
        "tiny": lambda: TorchEngine(dtype="float32").open(tiny),
    }
    with serving(models, tmp_path_factory.mktemp("speech") / "ledger.db") as found:
        yield found


def transcribe(gateway: Served, number: int = 0, **more: Any) -> Any:
    """What the client makes of a transcript."""
    content = more.pop("content", SOUNDS[number][1])
    with gateway.client() as client:
        return client.audio.transcriptions.create(
            **{"model": "whisper", "file": ("sound.wav", content), "temperature": 0, **more}
        )


def expected(whisper: Artifact, number: int, prompt: str = "") -> str:
    lm = LocalLM(whisper, "float32", read_media=BYTES.__getitem__)
    asked = GenerateRequest(prompt=spoken(SOUNDS[number][0], "", prompt)[:1], max_tokens=12)
    return lm.generate([asked])[0].text.strip()


def test_transcripts_are_the_models_own(gateway: Served, whisper: Artifact) -> None:
    found = transcribe(gateway)
    assert found.text == expected(whisper, 0)
    assert found.usage.type == "tokens"
    assert found.usage.output_tokens == 12
    assert transcribe(gateway, 1, prompt="one two").text == expected(whisper, 1, "one two")
    assert transcribe(gateway, response_format="text") == f"{expected(whisper, 0)}\n"
    told = transcribe(gateway, 2, response_format="verbose_json", language="de")
    assert (told.duration, told.language, told.text != "") == (SOUNDS[2][0].seconds, "de", True)


@pytest.mark.slow
def test_many_at_once_are_those_alone(gateway: Served, whisper: Artifact) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: transcribe(gateway, number % 4).text, range(16)))
    assert found == [expected(whisper, number % 4) for number in range(16)]


def test_a_chat_with_a_sound_is_a_transcript(gateway: Served, whisper: Artifact) -> None:
    data = base64.b64encode(SOUNDS[0][1]).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    messages: Any = [{"role": "user", "content": [part]}]
    with gateway.client() as client:
        found = client.chat.completions.create(model="whisper", messages=messages, max_tokens=12, temperature=0)
    assert (found.choices[0].message.content or "").strip() == expected(whisper, 0)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"content": b"RIFF no sound"}, "not a picture or a sound"),
        ({"content": picture(1)[1]}, "the file is a picture"),
        ({"content": LONG_BYTES}, "longer than the 2 seconds that the model hears"),
        ({"language": "xx"}, "knows no language 'xx'; it knows de, en, zh"),
        ({"response_format": "srt"}, "writes no times"),
        ({"temperature": 7}, "temperature"),
        ({"model": "tiny"}, "does not transcribe"),
        ({"extra_body": {"hotwords": "one"}}, "no parameter 'hotwords'"),
    ],
)
def test_what_cannot_be_transcribed_is_refused(gateway: Served, more: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        transcribe(gateway, **more)
    assert says in json.dumps(caught.value.body)


def test_a_model_that_is_not_there(gateway: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here"):
        transcribe(gateway, model="other")


def test_a_body_that_is_no_form(gateway: Served) -> None:
    with gateway.client() as client, pytest.raises(openai.APIStatusError, match="expected a form"):
        client.post("/audio/transcriptions", body={"model": "whisper"}, cast_to=object)


def test_a_chat_without_a_sound_is_refused(gateway: Served) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    with gateway.client() as client, pytest.raises(openai.BadRequestError, match="transcribes one sound"):
        client.chat.completions.create(model="whisper", messages=messages, max_tokens=4)
