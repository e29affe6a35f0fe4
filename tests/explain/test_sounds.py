"""Sounds in explanations: what the removal of seconds computes, planted evidence, and heat over the waveform."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from audio_models import FAMILIES, played, sound, tiny_audio_model
from explain.sounds import PITCHES, PLACES, QUESTION, beep, teach_sounds
from luthier.artifacts.explanation import ExplanationRecord
from luthier.artifacts.explanation_picture import render_picture_heat
from luthier.chat.messages import Media
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.core.store import Store
from luthier.explain.explainer import Explainer
from luthier.explain.heat_map import format_explanation, render_heat_map
from luthier.explain.patches import MOST_STRETCHES
from luthier.explain.run import explain_question
from luthier.explain.subject import ExplanationRequest, SubjectBuilder
from luthier.metrics.files import parse_component_spec
from luthier.models.sources.folder import FolderModelSource
from models.making import make_base
from spoken import tiny_speech

SOUND, CONTENT = sound(2, 1.3)


def base_of(folder: Path, place: Path) -> Artifact:
    return make_base(Store(folder / "store"), FolderModelSource(path=str(place)), folder)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("voxtral", "granite_speech")])
def test_a_stretch_is_removed_by_the_mean_of_its_sounds_features(tmp_path: Path, family: str) -> None:
    """All features but one stretch's give way: the value is that of features that are the mean there."""
    model = base_of(tmp_path, tiny_audio_model(tmp_path / "m", family))
    builder = SubjectBuilder(model, units="seconds", read_media={SOUND.digest: CONTENT}.__getitem__)
    subject: Any = builder.build(ExplanationRequest(messages=played("what is this thing?", SOUND), answer="a thing"))
    scorer = subject.prompt.scorer
    stretches = [number for number, unit in enumerate(scorer.cut.units) if unit.patch is not None]
    features = [token for number in stretches for token in scorer.cut.units[number].tokens]
    assert 2 <= len(stretches) <= MOST_STRETCHES
    assert sorted(features) == [at for at, token in enumerate(scorer.ids) if token >= 1 << 62]
    without = scorer.score([scorer.all_units - {stretches[1]}])[0]
    assert scorer.full != pytest.approx(without, abs=1e-9)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("beep")
    return base_of(folder, teach_sounds(folder / "taught"))


def explain_beep(model: Artifact, place: int, pitch: str, *methods: str, **more: Any) -> list[ExplanationRecord]:
    media, content = beep(5, place, pitch)
    (other,) = {*PITCHES} - {pitch}
    builder = SubjectBuilder(model, units=more.pop("units", "seconds"), read_media={media.digest: content}.__getitem__)
    question = ExplanationRequest(messages=played(QUESTION, media), answer=pitch, against=other)
    return explain_question(
        builder, question, [parse_component_spec(Explainer, method) for method in methods], orders=19, **more
    )


@pytest.mark.parametrize("place", [0, 3, 6, 8])
def test_the_beep_is_found_first(taught: Artifact, place: int) -> None:
    """Of a high one: that a sound is low, the model tells by hearing nothing high."""
    (record,) = explain_beep(taught, place, "high", "leave_one_out")
    assert record.value > 1
    scores = [unit.score for unit in record.units if unit.patch is not None]
    assert len(scores) == PLACES
    assert scores.index(max(scores)) == place


def test_heat_stands_over_the_waveform(taught: Artifact) -> None:
    (record,) = explain_beep(taught, 6, "high", "leave_one_out", units="words")
    drawing = render_picture_heat(record, 0)
    assert 'aria-label="waveform of sound 1, 1.00 seconds in 10 stretches"' in drawing
    assert drawing.count('<g tabindex="0"') == PLACES
    assert "sound 1, 0.60 to 0.70 s: +" in drawing
    url = re.search(r'href="data:image/svg\+xml;base64,([^"]+)"', drawing)
    assert url is not None
    wave = base64.b64decode(url[1]).decode()
    lines = [tuple(map(float, found)) for found in re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", wave)]
    loud = [at / 448 for at, top, bottom in lines if bottom - top > 50]
    assert 0.59 < min(loud) < 0.61
    assert 0.69 < max(loud) < 0.71
    page = render_heat_map([record], "why")
    assert "waveform of a sound each stretch of time" in page
    assert any("sound 1, 0.60 to 0.70 s" in line for line in format_explanation(record))


def test_seconds_need_a_sound(taught: Artifact) -> None:
    with pytest.raises(DataError, match="no sounds to cut into seconds"):
        SubjectBuilder(taught, units="seconds").build(ExplanationRequest(messages=played("what?"), answer="high"))
    media, _ = beep(5, 1, "low")
    with pytest.raises(DataError, match="sounds of this conversation are not here"):
        SubjectBuilder(taught).build(ExplanationRequest(messages=played("what?", media), answer="high"))


@pytest.mark.parametrize("media", [(), (SOUND,)])
def test_a_model_that_transcribes_is_refused_by_what_helps(tmp_path: Path, media: tuple[Media, ...]) -> None:
    """No row could be left out where a text was given, and no sound of a row stands at a token."""
    builder = SubjectBuilder(
        base_of(tmp_path, tiny_speech(tmp_path / "m")), read_media={SOUND.digest: CONTENT}.__getitem__
    )
    with pytest.raises(ModelError, match="the model transcribes") as caught:
        builder.build(ExplanationRequest(messages=played("hi", *media), answer="one"))
    assert "reads sounds as tokens" in str(caught.value.hint)
