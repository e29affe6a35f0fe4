"""Sounds in chats: answers are those of the model itself, a sound is heard once, and a broken one is refused."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from audio_models import played, sound, tiny_audio_model
from luthier.chat.messages import Media
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.lm.base import GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.serve.engines.torch import TorchEngine
from serving import Served, serving
from tuning import made

FIRST, FIRST_BYTES = sound(1)
SECOND, SECOND_BYTES = sound(2, 1.1, 8_000)
BYTES = {FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES}
_, LONG_BYTES = sound(3, 2.5)
GREEDY: dict[str, Any] = {"model": "sounded", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def audio_model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    place = tmp_path_factory.mktemp("sounded")
    source = tiny_audio_model(place / "model")

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / "model.json").write_text('{"name": "sounded"}')

    return made(Store(place / "store"), "sounded", "model", write)


@pytest.fixture(scope="module")
def gateway(audio_model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = {"sounded": lambda: TorchEngine(dtype="float32").open(audio_model)}
    with serving(models, tmp_path_factory.mktemp("media") / "ledger.db") as found:
        yield found


def asking(text: str, *contents: bytes) -> list[dict[str, Any]]:
    """A question with sounds before it, as OpenAI's clients send it."""
    data = [base64.b64encode(content).decode() for content in contents]
    parts = [{"type": "input_audio", "input_audio": {"data": one, "format": "wav"}} for one in data]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def answer(gateway: Served, messages: list[dict[str, Any]]) -> str:
    with gateway.client() as client:
        found = client.chat.completions.create(**GREEDY, messages=messages)  # type: ignore[call-overload]
    return str(found.choices[0].message.content)


@pytest.mark.parametrize("media", [(FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST, FIRST)])
def test_answers_are_the_models_own(gateway: Served, audio_model: Artifact, media: tuple[Media, ...]) -> None:
    local = LocalLM(audio_model, "float32", read_media=BYTES.__getitem__)
    (expected,) = local.generate([GenerateRequest(prompt=played("what is this?", *media), max_tokens=8)])
    contents = [BYTES[medium.digest] for medium in media]
    for _ in range(2):  # the second time from what is kept
        assert answer(gateway, asking("what is this?", *contents)) == expected.text


def test_a_sound_asked_about_again_is_not_read_again(gateway: Served) -> None:
    asked = asking("again and again, at some length?", SECOND_BYTES)
    with gateway.client() as client:
        told = [client.chat.completions.create(**GREEDY, messages=asked) for _ in range(2)]  # type: ignore[call-overload]
    cached = [one.usage.prompt_tokens_details.cached_tokens for one in told]
    assert cached[1] > max(27, cached[0]), "the sound's 27 tokens are among them"


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (asking("?", FIRST_BYTES[:50]), "the WAV ends before its end"),
        (asking("?", LONG_BYTES), "longer than the 2 seconds that the model hears"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "@@"}}]}], "are no base64"),
    ],
)
def test_what_cannot_be_heard_is_refused(gateway: Served, messages: Any, what: str) -> None:
    with pytest.raises(openai.BadRequestError, match=what) as refused:
        answer(gateway, messages)
    assert json.loads(refused.value.response.text)["error"]["type"] == "invalid_request_error"
    assert answer(gateway, asking("and still", FIRST_BYTES)) is not None
