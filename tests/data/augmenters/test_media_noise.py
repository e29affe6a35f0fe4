"""Noise on pictures and sounds of turns: new bytes beside the old ones, which stay where they are."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from luthier.artifacts.dataset import MADE, read_examples
from luthier.artifacts.media import MediaReader, list_media_files
from luthier.chat.media_codec import decode_audio, decode_image
from luthier.chat.messages import MEDIA_MARK
from luthier.core.errors import DataError
from luthier.data.augmenters.audio_noise import AudioNoise
from luthier.data.augmenters.image_noise import ImageNoise
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


def test_noise_of_recordings_is_as_strong_as_it_says(tmp_path: Path) -> None:
    recording = np.sin(np.arange(2000) / 3)
    augmenter = AudioNoise(snr_db=5, speed=0, gain_db=0, noise_folder="noise")
    signal = np.random.default_rng(0).normal(0, 0.1, 5000)
    noisy, (did,) = augmenter.noisy(signal, Random(1), 8000, recording)
    added = noisy - signal
    assert 10 * np.log10((signal**2).mean() / (added**2).mean()) == pytest.approx(float(did.split()[2]), abs=1)
    power = np.abs(np.fft.rfft(added)) ** 2
    assert power[np.argmax(power) - 5 : np.argmax(power) + 6].sum() > 0.8 * power.sum(), "the tone of the recording"


def test_recordings_of_noise_come_from_a_folder(bench: Bench) -> None:
    augmenter = {"kind": "audio_noise", "noise_folder": "noise", "speed": 0, "gain_db": 0, "snr_db": 5}
    with pytest.raises(DataError, match="no recordings of noise"):
        bench.augment([augmenter])
    (bench.folder / "noise").mkdir()
    (bench.folder / "noise" / "street.wav").write_bytes(sound(0.2, 16000, seed=99))
    made = bench.augment([augmenter])
    added = [one for one in read_examples(made.artifact, "train") if MADE in one.meta]
    assert added
    (bench.folder / "noise" / "street.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(DataError, match=r"street\.wav"):
        bench.augment([augmenter])


def test_masks_silence_a_band_and_a_stretch() -> None:
    signal = np.random.default_rng(0).normal(0, 0.1, 16000)
    by_time = AudioNoise(snr_db=60, speed=0, gain_db=0, time_mask=0.2)
    after, did = by_time.noisy(signal, Random(2), 16000)
    assert len(after) == len(signal)
    assert len(did) == 2
    silent = after == 0
    for text in did:
        begin, end = float(text.split()[2]), float(text.split()[4])
        assert silent[round(begin * 16000) + 200 : round(end * 16000) - 200].all()
    assert np.allclose(after[~silent], signal[~silent], atol=1e-9), "the rest is as it was"
    by_band = AudioNoise(snr_db=60, speed=0, gain_db=0, frequency_mask=0.3)
    after, did = by_band.noisy(signal, Random(2), 16000)
    power, before = (np.abs(np.fft.rfft(one)) ** 2 for one in (after, signal))
    for text in did:
        low, high = float(text.split()[2]), float(text.split()[4])
        if high - low > 200:
            band = slice(round(low) + 60, round(high) - 60)  # bins of 1 Hz
            assert power[band].sum() < 0.01 * before[band].sum()
    assert len(after) == len(signal)
    again, _ = by_band.noisy(signal, Random(2), 16000)
    assert np.array_equal(after, again)


def test_color_contrast_and_perspective_change_what_they_say() -> None:
    image = decode_image(picture(size=(40, 30)))
    quiet = {"blur": 0, "jpeg": 0, "brightness": 0, "crop": 0}
    recolored, (did,) = ImageNoise(**quiet, color=0.6).noisy(image, Random(3))
    assert did.startswith("saturation times")
    values, before = np.asarray(recolored, np.float64), np.asarray(image, np.float64)
    factor, warmth = float(did.split()[2].rstrip(",")), float(did.split()[5])
    assert np.sign(values[..., 0].mean() / before[..., 0].mean() - 1) == np.sign(warmth - 1) or abs(warmth - 1) < 0.05
    assert 0.4 <= factor <= 1.6
    harder, _ = ImageNoise(**quiet, contrast=0.5).noisy(image, Random(1))
    assert np.asarray(harder.convert("L"), np.float64).std() != np.asarray(image.convert("L"), np.float64).std()
    black = Image.new("RGB", (60, 40))
    tilted, (did,) = ImageNoise(**quiet, perspective=0.3).noisy(black, Random(5))
    assert did == "seen from the side"
    assert tilted.size == black.size
    corners = np.asarray(tilted)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(), "what comes in is white"
    assert (np.asarray(tilted)[20, 30] == 0).all(), "the middle stays"
    gray, (did,) = ImageNoise(**quiet, perspective=0.3).noisy(black.convert("L"), Random(5))
    assert gray.mode == "L"
