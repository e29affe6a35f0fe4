"""Drift of pictures and sounds: nothing cries wolf, and each number that changes is found and named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from luthier.artifacts.dataset import read_examples
from luthier.chat.media_codec import encode_wav, keep_media
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.chat.messages import Message as Turn
from luthier.core.errors import DataError
from luthier.monitor.signal import SignalValue, TrainingSample
from luthier.monitor.signals.media_drift import FEWEST, MediaDrift, measure_media
from luthier.monitor.steps.monitor import Monitor
from luthier.recipe.schema import Recipe
from luthier.traces.record import Trace
from watching import evaluator, plan_of, shown_media, trace

TRAINED = shown_media(600)
SIGNAL: dict[str, Any] = {"kind": "media_drift"}


def asked(media: Sequence[Media], begin: int = 0) -> list[Trace]:
    """A request for each picture or sound."""
    turns = [Turn(role="user", content=f"{MEDIA_MARK} What is it?", media=(medium,)) for medium in media]
    return [trace(number, messages=(turn,)) for number, turn in enumerate(turns, begin)]


def readings(folder: Path, log: Sequence[Trace], trained: Sequence[Media] = TRAINED, **more: Any) -> Any:
    """The numbers at the end of a log, and what is said beside them."""
    watching = evaluator(plan_of(folder, [{**SIGNAL, **more}], media=trained), folder)
    for event in log:
        watching.add(event)
    at = log[-1].timestamp.timestamp() + 1
    found: dict[str, SignalValue] = {number: reading for number, _, reading in watching.readings(at)}
    watched = watching._watched["media_drift"]
    return found, watched.eye.explain(next(iter(watched.windows.values())).rows(at))


def test_pictures_as_in_the_training_data_are_no_change(tmp_path: Path) -> None:
    found, _ = readings(tmp_path, asked(shown_media(300, seed=1)))
    assert found["media_drift.evidence"].value < 2
    assert found["media_drift.evidence"].events == 300
    assert found["media_drift.apart"].low < 0.5 < found["media_drift.apart"].high + 0.05


@pytest.mark.parametrize(
    ("kind", "loudest", "changed"),
    [
        ("image", "bytes", {"size": 4_000_000}),
        ("image", "pixels", {"width": 1600, "height": 1600}),
        ("image", "brightness", {"level": 0.2}),
        ("image", "shape", {"width": 900, "height": 200}),
        ("image", "look", {"fingerprint": "0f" * 16}),
        ("audio", "seconds", {"seconds": 30.0}),
        ("audio", "rate", {"rate": 8000}),
        ("audio", "loudness", {"level": -45.0}),
    ],
)
def test_each_number_that_changes_is_found_and_named(
    tmp_path: Path, kind: str, loudest: str, changed: dict[str, Any]
) -> None:
    trained = shown_media(600, kind=kind)
    usual = asked(shown_media(100, seed=1, kind=kind))
    other = asked(shown_media(150, seed=2, kind=kind, **changed), begin=100)
    found, told = readings(tmp_path, [*usual, *other], trained, medium=kind)
    assert found["media_drift.evidence"].value > 2
    assert found["media_drift.apart"].low > 0.55
    assert f"the loudest number is: {loudest};" in told


def test_false_alarms_are_as_rare_as_is_said(tmp_path: Path) -> None:
    weeks, alarms = 120, 0
    plan = plan_of(tmp_path, [{**SIGNAL, "media": 200}], media=TRAINED)
    for week in range(weeks):
        eye: Any = evaluator(plan, tmp_path)._watched["media_drift"].eye
        highest = -math.inf
        for event in asked(shown_media(200, seed=1000 + week), begin=week * 1000):
            eye.row(event, None)
            highest = max(highest, eye.evidence.digits)
        alarms += highest > 1
    assert alarms <= stats.binom.ppf(0.999, weeks, 0.1), "one in ten, looked at after each request"


def test_a_picture_that_is_asked_about_again_counts_once(tmp_path: Path) -> None:
    media = shown_media(50, seed=1)
    strange = shown_media(1, seed=3, size=9_000_000, level=0.0, width=5, height=900)
    once, _ = readings(tmp_path, asked([*media, *strange]))
    again, _ = readings(tmp_path, asked([*media, *strange * 300]))
    assert again["media_drift.evidence"] == once["media_drift.evidence"]


def test_requests_without_pictures_say_nothing_and_old_ones_without_a_level_raise_no_alarm(tmp_path: Path) -> None:
    old = [medium.model_copy(update={"level": None}) for medium in shown_media(200, seed=1)]
    found, _ = readings(tmp_path, [*asked(old), trace(900)])
    assert found["media_drift.evidence"].value < 2
    assert found["media_drift.evidence"].events == 200
    without, _ = readings(
        tmp_path / "old", asked(shown_media(200, seed=2)), [m.model_copy(update={"level": None}) for m in TRAINED]
    )
    assert without["media_drift.evidence"].value < 2


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    training = TrainingSample(prompts=[], answers=[], recipe_dir=tmp_path, seed=0, media=TRAINED[: FEWEST - 1])
    with pytest.raises(DataError, match=f"39 pictures of the training data are too few.*{FEWEST} are needed"):
        MediaDrift().learn(training, tmp_path / "reference")
    with pytest.raises(ValueError, match="compared with the training data"):
        Monitor(signals=(MediaDrift(),))


def test_numbers_are_those_of_the_bytes(tmp_path: Path) -> None:
    import io

    content = io.BytesIO()
    Image.new("RGB", (40, 20), (51, 51, 51)).save(content, "PNG")
    medium = keep_media(content.getvalue()).media
    assert medium.level == 0.2
    sound = keep_media(encode_wav(np.full(800, 0.1, np.float32), 8000)).media
    assert sound.level == pytest.approx(-20, abs=0.01)
    known = np.zeros((1, 128), np.uint8)
    bits = bin(int(medium.fingerprint or "", 16)).count("1")
    expected = [bits / 128, math.log(medium.size), math.log(800), math.log(2), 0.2]
    assert measure_media([medium], known)[0] == pytest.approx(expected)
    assert measure_media([sound], known)[0, 1:4] == pytest.approx([math.log(sound.size), math.log(0.1), math.log(8000)])


def test_a_step_learns_from_the_pictures_of_a_data_set(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "data" / ("light" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 255, (16 + number % 5, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "recipe.yaml").write_text(
        "luthier: 1\nname: watched\nsteps:\n"
        "  data: {kind: prepare, source: {kind: mediafolder, path: data}, split: {}}\n"
        "  monitor: {kind: monitor, data: data, signals: [media_drift]}\n"
    )
    made = Recipe.load(tmp_path / "recipe.yaml").run()
    rest = np.load(made["monitor"].artifact.path("references/media_drift/rest.npy"))
    assert rest.shape == (38, 5)  # a third of 57 is known
    media = [
        medium for example in read_examples(made["data"].artifact, "train") for medium in example.messages[0].media
    ]
    assert len(media) == 57
    assert {round(value, 4) for value in rest[:, 4]} <= {medium.level for medium in media}
