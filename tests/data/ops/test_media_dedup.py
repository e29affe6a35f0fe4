"""Near copies of pictures and sounds are found, verified, and held on one side of the split."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from luthier.artifacts.dataset import read_examples
from luthier.chat.media_codec import decode_audio, keep_media
from luthier.data.dedup.media import BYTES, cluster_fingerprints, distance_between

Make = Callable[..., Any]
SCENES = 12


def _scene(number: int) -> Image.Image:
    """A picture with soft shapes, as photographs have."""
    values = np.random.default_rng(number).uniform(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(values).resize((160, 120), Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "smaller": lambda image: _jpeg(image.resize((80, 60), Image.Resampling.LANCZOS)),
    "encoded anew": lambda image: _jpeg(image, 50),
    "lighter": lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
}


def _rows(tmp_path: Path, copy: str) -> str:
    rows = []
    for number in range(SCENES):
        for name, content in (("one", _jpeg(_scene(number))), ("two", COPIES[copy](_scene(number)))):
            (tmp_path / f"{number}{name}.jpg").write_bytes(content)
            rows.append({"question": "What is it?", "answer": f"scene {number}", "image": f"{number}{name}.jpg"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "a.jsonl"


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_clusters_that_the_split_holds_together(copy: str, make: Make, tmp_path: Path) -> None:
    source = {"kind": "jsonl", "path": _rows(tmp_path, copy), "media_folder": "."}
    made = make(source=source, ops=["media_dedup"], split={"test": 0.3, "group": "cluster"}, task="text")
    clusters = dict(made.attributes("media_dedup").select("id", "cluster").iter_rows())
    sides: dict[str, set[str]] = {}
    for split in made.summary.rows:
        for one in read_examples(made.artifact, split):
            sides.setdefault(one.messages[-1].content, set()).add(f"{split} {clusters[one.id]}")
    assert len(sides) == SCENES
    assert all(len(found) == 1 for found in sides.values())
    assert len({next(iter(found)).split()[1] for found in sides.values()}) == SCENES
    dropped = make(
        source=source, ops=[{"kind": "media_dedup", "action": "drop"}], split={"test": 3}, task="text"
    ).summary.dropped
    assert dropped == {"near copy of media": SCENES}


def test_rows_that_ask_something_else_stay_and_text_alone_is_no_copy(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(_jpeg(_scene(1)))
    rows = [{"question": f"What is {n}?", "answer": f"{n}", "image": "a.jpg"} for n in range(8)]
    rows += [{"question": f"What is {n} in words?", "answer": f"{n}"} for n in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "jsonl", "path": "a.jsonl", "media_columns": {"image": "image"}, "media_folder": "."}
    made = make(source=source, ops=[{"kind": "media_dedup", "action": "drop"}], split={"test": 2}, task="text")
    assert made.summary.dropped == {}
    flagged = make(source=source, ops=["media_dedup"], split={"test": 4, "group": "cluster"}, task="text")
    assert flagged.attributes("media_dedup")["cluster"].drop_nulls().n_unique() == 1


def test_a_quieter_sound_is_a_copy_and_another_one_is_not() -> None:
    chance = np.random.default_rng(0)
    tones = [np.repeat(chance.choice([200, 300, 500, 900, 1500], 8), 1000) for _ in range(2)]
    sounds = [0.5 * np.sin(2 * np.pi * np.cumsum(tone) / 8000) for tone in tones]

    def fingerprint(samples: Any, name: str = "WAV") -> Any:
        out = io.BytesIO()
        soundfile.write(out, samples, 8000, format=name)
        media, kept = keep_media(out.getvalue())
        assert decode_audio(kept)[1] == 8000
        assert media.fingerprint is not None
        return np.frombuffer(bytes.fromhex(media.fingerprint), np.uint8)

    first = fingerprint(sounds[0])
    assert distance_between(first, fingerprint(sounds[0] * 0.3)) <= 8
    assert distance_between(first, fingerprint(sounds[1])) > 24


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 60))
def test_no_pair_within_the_distance_is_overlooked(seed: int, distance: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    base = chance.integers(0, 256, (max(1, count // 4), BYTES), dtype=np.uint8)
    bits = np.unpackbits(base[chance.integers(0, len(base), count)], axis=1)
    bits ^= chance.random(bits.shape) < 0.05
    prints = np.packbits(bits, axis=1)
    near = distance_between(prints[:, None], prints[None]) <= distance
    for _ in range(count):
        near = near | (near @ near)
    wanted = [int(np.flatnonzero(row)[0]) for row in near]
    assert cluster_fingerprints(prints, distance).heads.tolist() == wanted
