"""Noise on pictures and sounds of turns: new bytes beside the old ones, which stay where they are."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from luthier.artifacts.dataset import MADE, read_examples
from luthier.artifacts.media import MediaReader, list_media_files
from luthier.chat.media_codec import decode_audio, decode_image
from luthier.chat.messages import MEDIA_MARK
from luthier.data.augmenters.audio_noise import AudioNoise
from media import picture, sound
from tests.augmenting import Bench, rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    own = [
        {
            **row,
            "sound": f"data:audio/wav;base64,{base64.b64encode(sound(0.05, seed=at)).decode()}",
            "photo": f"data:image/png;base64,{base64.b64encode(picture(seed=at)).decode()}",
        }
        for at, row in enumerate(rows())
    ]
    return Bench(tmp_path, own, source={"media": "read", "media_columns": {"sound": "audio", "photo": "image"}})


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_made_rows_have_media_of_their_own_and_the_step_keeps_only_these(kind: str, bench: Bench) -> None:
    made = bench.augment([{"kind": f"{kind}_noise", "copies": 1}])
    every = {one.id: one for one in read_examples(made.artifact, "train")}
    added = [one for one in every.values() if MADE in one.meta]
    assert added
    new = set()
    with MediaReader(made.artifact) as reader:
        for one in added:
            parent = every[one.meta[MADE]["parents"][0]]
            for own, before in zip(one.messages[0].media, parent.messages[0].media, strict=True):
                assert (own.digest != before.digest) == (own.kind == kind)
                assert own.kind == before.kind
                assert reader.read(before.digest)
                content = reader.read(own.digest)
                if own.digest != before.digest:
                    new.add(own.digest)
                    assert decode_image(content).height in (8, 12) if kind == "image" else len(decode_audio(content)[0])
    (file,) = list_media_files(made.artifact)
    with MediaReader(made.artifact) as reader:
        assert {digest for digest in new if reader.read(digest)} == new
    import pyarrow.parquet as pq

    assert set(pq.read_table(file, columns=["digest"])["digest"].to_pylist()) == new


def test_text_noise_costs_no_picture_its_place(bench: Bench) -> None:
    made = bench.augment([{"kind": "noise", "typos": 0.9, "drop": 0.5, "copies": 2}])
    for one in read_examples(made.artifact, "train"):
        assert one.messages[0].content.count(MEDIA_MARK) == len(one.messages[0].media) == 3
    assert json.loads((made.artifact.folder / "augment.json").read_text())


def test_noise_is_as_strong_as_it_says() -> None:
    signal = np.sin(np.arange(8000) / 5).astype(np.float32)
    augmenter = AudioNoise(snr_db=10, speed=0, gain_db=0)
    ratios = []
    for seed in range(30):
        noisy, (did,) = augmenter.noisy(signal, Random(seed))
        told = float(did.split()[2])
        ratio = 10 * np.log10((signal**2).mean() / ((noisy - signal) ** 2).mean())
        assert abs(ratio - told) < 1
        ratios.append(told)
    assert 10 <= min(ratios) < 20
    assert max(ratios) <= 60
