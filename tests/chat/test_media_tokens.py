"""Pictures as tokens: equal to transformers' own processor, with ids of their own, never parted by a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.chat.media import MEDIA_IDS, get_media_key, get_media_place, load_processor
from luthier.chat.media_codec import decode_image
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError
from tiny_models import tiny_model
from vision_models import FAMILIES, picture, shown, tiny_vision_model

FIRST, FIRST_BYTES = picture(1)
SECOND, SECOND_BYTES = picture(2, 64, 40)
BYTES = {FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES}
CONVERSATION = (
    *shown("what is this?", FIRST, SECOND, answer="two pictures"),
    Message(role="user", content=f"and {MEDIA_MARK}, once more?", media=(FIRST,)),
    Message(role="assistant", content="the first"),
)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: Any, tmp_path_factory: Any) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("pictured"), request.param)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: Any) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("llava"))


def parts_of(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages with decoded pictures, as transformers' processors take them."""
    turns = []
    for message in messages:
        texts, parts = message.content.split(MEDIA_MARK), list[dict[str, Any]]()
        for number, text in enumerate(texts):
            if number:
                image = decode_image(BYTES[message.media[number - 1].digest])
                parts.append({"type": "image", "image": image})
            parts += [{"type": "text", "text": text}] if text else []
        turns.append({"role": message.role, "content": parts})
    return turns


def _filled_up(value: Any, sizes: list[int], joined: int) -> Any:
    """A tensor with zeros up to some sizes, apart from the dimension in which pictures follow one another."""
    import torch

    missing = [0 if at == joined else size - own for at, (size, own) in enumerate(zip(sizes, value.shape, strict=True))]
    return torch.nn.functional.pad(value, [side for count in reversed(missing) for side in (0, count)])


def test_ids_and_features_are_the_processors(folder: Path) -> None:
    import torch

    text, processor = ChatTokenizer.load(folder), load_processor(folder)
    assert text.media is not None
    row = text.encode(CONVERSATION)
    expected = processor.apply_chat_template(
        parts_of(CONVERSATION), tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert text.plain_ids(row.ids) == expected["input_ids"][0].tolist()
    assert [span.digest for span in row.media] == [FIRST.digest, SECOND.digest, FIRST.digest]
    keys = [list(dict.fromkeys(map(get_media_key, media_ids(row.ids[slice(*span.tokens)])))) for span in row.media]
    assert keys[0] == keys[2] != keys[1]
    places = [list(map(get_media_place, media_ids(row.ids[slice(*span.tokens)]))) for span in row.media]
    assert all(found == list(range(len(found))) for found in places)
    inputs = [text.media.build_inputs(key, BYTES[text.media.get(key).media.digest]) for (key,) in keys]
    tiles = "pixel_attention_mask" in expected  # (row, tiles, …): all of a row's pictures
    for name in ("pixel_values", "image_grid_thw", "image_sizes"):
        if name in expected:
            widest = [max(sizes) for sizes in zip(*(one[name].shape for one in inputs), strict=True)]
            padded = [_filled_up(one[name], widest, int(tiles)) for one in inputs]
            assert torch.equal(torch.cat(padded, int(tiles)), expected[name])
    question = processor.apply_chat_template(
        parts_of(CONVERSATION[:-1]), tokenize=True, return_dict=True, add_generation_prompt=True
    )
    assert text.plain_ids(text.prompt(CONVERSATION[:-1])) == list(map(int, question["input_ids"][0]))
    assert row.ids[: len(text.prompt(CONVERSATION[:-1]))] == text.prompt(CONVERSATION[:-1])


def media_ids(ids: list[int]) -> list[int]:
    return [token for token in ids if token >= MEDIA_IDS]


def test_a_typed_token_stays_text(folder: Path) -> None:
    text = ChatTokenizer.load(folder)
    assert text.media is not None
    written = text.media.written["image"]
    typed = shown(f"is {written} a picture, {MEDIA_MARK}?".replace(MEDIA_MARK, "x"), FIRST, answer=f"no, {written}")
    plain = shown("is it a picture?", FIRST, answer="no")
    row, other = text.encode(typed), text.encode(plain)
    assert len(row.media) == 1
    assert media_ids(row.ids) == media_ids(other.ids)
    ids = text.plain_ids(row.ids)
    assert ids.count(text.media.feature_ids["image"]) == len(media_ids(row.ids))
    assert text.decode(ids).count(written) >= 2


def test_a_cut_takes_a_picture_whole(llava: Path) -> None:
    text = ChatTokenizer.load(llava)
    whole = text.encode(CONVERSATION)
    for limit in range(8, len(whole.ids)):
        row = text.encode(CONVERSATION, max_tokens=limit)
        assert len(row.ids) <= limit
        assert row.removed == len(whole.ids) - len(row.ids)
        assert len(media_ids(row.ids)) == 16 * len(row.media)
        right = text.encode(CONVERSATION, max_tokens=limit, cut="right")
        assert right.ids == whole.ids[: len(right.ids)]
        assert len(media_ids(right.ids)) == 16 * len(right.media)


def test_a_model_of_text_refuses(tmp_path: Path) -> None:
    text = ChatTokenizer.load(tiny_model(tmp_path / "text"))
    with pytest.raises(DataError, match="reads text alone"):
        text.encode(CONVERSATION)


def test_max_pixels_has_its_price_and_other_ids(tmp_path: Path) -> None:
    folder = tiny_vision_model(tmp_path / "qwen", "qwen2_5_vl")
    text, small = ChatTokenizer.load(folder), ChatTokenizer.load(folder, max_pixels=700)
    (folder / "model.json").write_text('{"name": "tiny", "max_pixels": 700}')
    assert ChatTokenizer.load(folder).digest == small.digest
    assert text.media is not None
    assert small.media is not None
    row, less = text.prompt(CONVERSATION[:1]), small.prompt(CONVERSATION[:1])
    assert len(less) < len(row)
    assert not set(media_ids(row)) & set(media_ids(less))
    assert text.digest != small.digest
    keys = dict.fromkeys(map(get_media_key, media_ids(less)))
    for key in keys:
        inputs = small.media.build_inputs(key, BYTES[small.media.get(key).media.digest])
        assert int(inputs["image_grid_thw"].prod()) // 4 == small.media.get(key).count


def test_a_picture_of_another_size_than_told_is_refused(llava: Path, tmp_path: Path) -> None:
    text = ChatTokenizer.load(tiny_vision_model(tmp_path / "qwen", "qwen2_5_vl"))
    assert text.media is not None
    lie = Media(kind="image", digest=SECOND.digest, format="png", size=SECOND.size, width=20, height=20)
    key = text.media.meet(lie)
    with pytest.raises(DataError, match="64 x 40"):
        text.media.build_inputs(key, SECOND_BYTES)
