"""Every family of `luthier.models.media.families` is proven by existing: each of its types has a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from audio_models import FAMILIES as AUDIO_FAMILIES
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.media.cost import count_image, read_media_settings
from luthier.models.media.family import MediaFamily, explain_alone, find_family, list_family_types
from spoken import FAMILIES as SPEECH_FAMILIES
from vision_families import NEEDS_TIMM
from vision_models import ALONE, FAMILIES, picture, tiny_vision_model

SAME = {"smolvlm": "idefics3"}
"""Types whose models are those of another, by name of that."""


@pytest.mark.parametrize("model_type", list_family_types())
def test_each_type_has_a_tiny_model(model_type: str) -> None:
    """By which its reading is proven: in packs (`test_media_packs.py`, `test_audio_packs.py`,
    `test_speech_packs.py`), or row by row (`test_media_rows.py`)."""
    tinies = ALONE if explain_alone(model_type) else {**FAMILIES, **NEEDS_TIMM}
    assert SAME.get(model_type, model_type) in {
        *(tiny.type for tiny in tinies.values()),
        *AUDIO_FAMILIES,
        *SPEECH_FAMILIES,
    }


@pytest.mark.parametrize("model_type", list_family_types())
def test_each_type_is_one_that_transformers_knows(model_type: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert model_type in CONFIG_MAPPING_NAMES


@pytest.mark.parametrize("model_type", list_family_types())
def test_each_family_says_what_it_is(model_type: str) -> None:
    family = find_family(model_type)
    assert isinstance(family, MediaFamily)
    assert type(family).__doc__ != MediaFamily.__doc__
    assert type(family).__module__.startswith("luthier.models.media.families.")


def test_two_families_of_one_type_are_refused() -> None:
    with pytest.raises(TypeError, match="'llava'"):
        type("Other", (MediaFamily,), {"types": ("llava",)})


SIZES = [(36, 28), (64, 40), (28, 80), (30, 30), (200, 90), (97, 301), (640, 480)]


@pytest.mark.parametrize("family", [*FAMILIES, *ALONE])
def test_a_plan_counts_pictures_as_the_processor_does(family: str, tmp_path: Path) -> None:
    """The features exactly, and about as many further tokens, without torch."""
    folder = tiny_vision_model(tmp_path, family)
    text = ChatTokenizer.load(folder)
    assert text.media is not None
    for width, height in SIZES:
        media, _ = picture(1, width, height)
        known = text.media.get(text.media.meet(media))
        found = count_image(read_media_settings(folder), width, height)
        assert found is not None
        assert found.features == known.count, (width, height)
        tokens = len(text.tokenizer(known.text, add_special_tokens=False)["input_ids"])
        assert abs(found.tokens - tokens) <= 4 + tokens // 20, (width, height)
        assert found.patches >= found.features or family == "llava_next" or "onevision" in family


def test_a_plan_asks_families_without_torch() -> None:
    code = (
        "import sys; from luthier.models.media.family import explain_alone, list_family_types; list_family_types();"
        "import luthier.models.media.cost; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
