"""Languages of a batch are those that py3langid tells one by one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import ValidationError

from luthier.data.ops.language import LanguageOperator
from luthier.lang import detect
from luthier.lang.detect import LANGUAGES, LOOKED_AT_CHARS, UNKNOWN, identify_languages

SENTENCES = [
    "I am still waiting for my parcel and nobody answers my messages",
    "ICH WARTE IMMER NOCH AUF MEIN PAKET UND NIEMAND ANTWORTET MIR",
    "Todavía estoy esperando mi paquete y nadie contesta mis mensajes",
    "Я все еще жду свою посылку, и никто не отвечает на мои сообщения",
    "まだ荷物を待っていますが、誰も返事をくれません。とても困っています。",
    "Još uvijek čekam svoj paket i nitko ne odgovara na moje poruke",
    "Още чакам пратката си и никой не отговаря на съобщенията ми",
]
CODES = ["en", "de", "es", "ru", "ja", "hr", "bg"]
TEXTS = st.one_of(st.sampled_from(SENTENCES), st.text(max_size=300), st.text("ab é\nß漢字", max_size=300))


@cache
def reference() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=9))
def test_a_batch_gets_the_librarys_answers(texts: list[str]) -> None:
    for text, guess in zip(texts, identify_languages(texts, min_chars=1, confidence=0), strict=True):
        head = text[:LOOKED_AT_CHARS].strip()
        if not any(char.isalpha() for char in head):
            assert guess == (UNKNOWN, 0)
            continue
        ranked = reference().rank(head)
        assert guess.sure == pytest.approx(ranked[0][1], abs=0.002)
        close = [code for code, sure in ranked if sure > ranked[0][1] - 0.002]
        close += ["pt"] if "gl" in close else []  # mended; see the test below
        assert guess.code in {code if code in LANGUAGES else UNKNOWN for code in close}


def test_all_that_the_library_knows_is_known() -> None:
    assert set(reference().labels) >= LANGUAGES


@pytest.mark.parametrize(("text", "code"), list(zip(SENTENCES, CODES, strict=True)))
def test_neighbours_are_told_apart_when_it_is_said_which_occur(text: str, code: str) -> None:
    assert identify_languages([text], among=tuple(CODES))[0].code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("por usar pesticidas de síntese, por obter elevado rendimento e por valorizar as espécies autóctones", "pt"),
        ("a superfície coberta por sedimentos consolidados, uma atmosfera densa constituída", "pt"),
        ("A lingua galega é falada en Galicia por máis de dous millóns de persoas, mais non só alí", "gl"),
        ("Unha casa con dúas fiestras, polo que se ve, e cando chove non se pode saír", "gl"),
    ],
)
def test_portuguese_is_not_taken_for_galician(text: str, code: str) -> None:
    assert identify_languages([text])[0].code == code


def test_what_cannot_be_told_is_undetermined() -> None:
    assert [guess.code for guess in identify_languages(["", "ok", "12345 67890 12345 67890", "  \n "])] == [UNKNOWN] * 4


def test_a_language_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"language 'xx' is unknown"):
        LanguageOperator(among=("en", "xx"))


def test_tables_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    first = detect._tables()
    assert isinstance(first.weights, np.memmap)
    monkeypatch.setattr(detect, "_identifier", None)  # not asked again
    again = detect._tables()
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len(list((tmp_path / "languages").iterdir())) == 1


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "languages").write_text("a file in its place")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    assert detect._tables().weights.shape == detect._identifier().nb_ptc.shape
