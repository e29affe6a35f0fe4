"""Pictures in chats: answers are those of the model itself, and nothing but digests is kept of them."""

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

from hostile import ODD_PICTURES, PICTURES, HostileFile
from luthier.chat.media import MediaProcessor
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.lm.base import GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.serve.engines.torch import TorchEngine
from serving import Served, serving
from tuning import made
from vision_models import picture, shown, tiny_vision_model

FIRST, FIRST_BYTES = picture(1)
SECOND, SECOND_BYTES = picture(2, 64, 40)
BYTES = {FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES}
GREEDY: dict[str, Any] = {"model": "pictured", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    place = tmp_path_factory.mktemp("pictured")
    source = tiny_vision_model(place / "model")

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / "model.json").write_text('{"name": "pictured"}')

    return made(Store(place / "store"), "pictured", "model", write)


@pytest.fixture(scope="module")
def gateway(vision_model: Artifact, tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = {
        "pictured": lambda: TorchEngine(dtype="float32").open(vision_model),
        "tiny": lambda: TorchEngine(dtype="float32").open(tiny),
    }
    with serving(models, tmp_path_factory.mktemp("media") / "ledger.db") as found:
        yield found


def asking(text: str, *contents: bytes) -> list[dict[str, Any]]:
    """A question with pictures before it, as OpenAI's clients send it."""
    urls = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in contents]
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def answer(gateway: Served, messages: list[dict[str, Any]], **more: Any) -> str:
    with gateway.client() as client:
        found = client.chat.completions.create(**{**GREEDY, **more}, messages=messages)  # type: ignore[call-overload]
    return str(found.choices[0].message.content)


@pytest.mark.parametrize("media", [(FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST, FIRST)])
def test_answers_are_the_models_own(gateway: Served, vision_model: Artifact, media: tuple[Media, ...]) -> None:
    local = LocalLM(vision_model, "float32", read_media=BYTES.__getitem__)
    (expected,) = local.generate([GenerateRequest(prompt=shown("what is this?", *media), max_tokens=8)])
    contents = [BYTES[medium.digest] for medium in media]
    for _ in range(2):  # the second time from what is kept
        assert answer(gateway, asking("what is this?", *contents)) == expected.text


def test_a_picture_asked_about_again_is_not_read_again(gateway: Served) -> None:
    asked = asking("again and again, at some length?", SECOND_BYTES)
    with gateway.client() as client:
        told = [client.chat.completions.create(**GREEDY, messages=asked) for _ in range(2)]  # type: ignore[call-overload]
    cached = [one.usage.prompt_tokens_details.cached_tokens for one in told]
    assert cached[1] > cached[0]
    assert cached[1] > SECOND.size // 10_000


def test_a_picture_of_another_question_is_not_read_again(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower runs once for each picture, whatever is asked about it, in whichever conversation."""
    read = list[str]()
    plain = MediaProcessor.build_inputs

    def build_inputs(self: MediaProcessor, key: int, content: bytes) -> Any:
        read.append(self.get(key).media.digest)
        return plain(self, key, content)

    monkeypatch.setattr(MediaProcessor, "build_inputs", build_inputs)
    (third, third_bytes), (fourth, fourth_bytes) = picture(3, 44, 36), picture(4, 44, 36)
    for text in ("what is it?", "which of them is it not?", "a third question"):
        answer(gateway, asking(text, third_bytes))
    answer(gateway, asking("both?", fourth_bytes, third_bytes))
    answer(gateway, [*asking("and", third_bytes), {"role": "assistant", "content": "?"}, *asking("so?", fourth_bytes)])
    assert read == [third.digest, fourth.digest]


def test_traces_keep_digests_and_no_bytes(gateway: Served) -> None:
    before = len(gateway.heard.traces)
    answer(gateway, asking(f"a typed {MEDIA_MARK} mark", FIRST_BYTES))
    trace = gateway.heard.wait(before + 1)[-1]
    (turn,) = trace.messages
    assert [medium.digest for medium in turn.media] == [FIRST.digest]
    assert turn.content == f"{MEDIA_MARK}a typed  mark"
    assert base64.b64encode(FIRST_BYTES).decode()[:40] not in trace.model_dump_json()


def _picture_part(url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]


@pytest.mark.parametrize(
    ("messages", "more", "what"),
    [
        (_picture_part({"url": "https://example.com/a.png"}), {}, "not fetched from addresses"),
        (_picture_part({"url": "data:image/png;base64,@@@"}), {}, "are no base64"),
        (_picture_part({"url": "data:image/png;base64,aGVsbG8="}), {}, "picture"),
        (_picture_part(7), {}, "not fetched from addresses"),
        (asking("?", FIRST_BYTES[:60]), {}, "picture"),
        (asking("?", FIRST_BYTES), {"model": "tiny"}, "reads text only"),
        (asking("?", *[FIRST_BYTES] * 17), {}, "at most 16"),
        ([{"role": "assistant", **{"content": asking("?", FIRST_BYTES)[0]["content"]}}], {}, "only the user"),
        ([{"role": "user", "content": [{"type": "video_url"}]}], {}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(gateway: Served, messages: Any, more: Any, what: str) -> None:
    with pytest.raises(openai.BadRequestError, match=what) as refused:
        answer(gateway, messages, **more)
    assert json.loads(refused.value.response.text)["error"]["param"] == "messages"
    assert answer(gateway, asking("and still", FIRST_BYTES)) is not None


def test_bytes_are_offered_where_a_request_allows_it_and_was_answered(gateway: Served) -> None:
    fresh = [picture(seed, 20, 20) for seed in (71, 72, 73)]
    before = len(gateway.heard.traces)
    answer(gateway, asking("kept?", fresh[0][1]))
    answer(gateway, asking("kept?", fresh[1][1]), store=False)
    with pytest.raises(openai.BadRequestError):
        answer(gateway, asking("kept?", fresh[2][1]), model="tiny")
    gateway.heard.wait(before + 3)
    kept = {medium.digest: content for medium, content in gateway.heard.media.items()}
    assert kept[fresh[0][0].digest] == fresh[0][1]
    assert not kept.keys() & {fresh[1][0].digest, fresh[2][0].digest}


def _sent(file: HostileFile) -> list[dict[str, Any]]:
    url = f"data:image/{file.ending};base64,{base64.b64encode(file.content).decode()}"
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_hostile_pictures_are_refused_and_cost_no_other_request(gateway: Served) -> None:
    """Each is one error of the client's, while others are answered as if nothing happened."""
    plain = answer(gateway, asking("what is it?", FIRST_BYTES))
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(answer, gateway, asking("what is it?", FIRST_BYTES)) for _ in range(6)]
        for name, file in PICTURES.items():
            with pytest.raises(openai.BadRequestError) as refused:
                answer(gateway, _sent(file))
            error = json.loads(refused.value.response.text)["error"]
            assert error["param"] == "messages", name
            assert " object at 0x" not in error["message"]
        assert {other.result() for other in others} == {plain}
    for name, (content, ending) in ODD_PICTURES.items():
        assert answer(gateway, _sent(HostileFile(content, ending, ""))) is not None, name


@pytest.mark.parametrize("address", ["file:///etc/passwd", "/etc/passwd", "http://169.254.169.254/a.png", "../a.png"])
def test_addresses_are_never_read(gateway: Served, address: str) -> None:
    with pytest.raises(openai.BadRequestError, match="not fetched from addresses"):
        answer(gateway, _picture_part({"url": address}))
