"""Prefixes of replies are no names, and names behind them are still found."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from luthier.core.errors import LuthierError
from luthier.pii.recognizer import Recognizer, blank_reply_prefixes
from luthier.pii.recognizers.rampart import Rampart
from luthier.pii.span import PiiSpan
from tests.linear import assert_linear

PREFIXES = [
    *("WG:", "AW:", "FW:", "Fwd:", "Re:", "RE:", "TR:", "TR :", "SV:", "VS:", "RV:", "Antw:", "RIF:", "ENC:", "RES:"),
    *("Odp:", "PD:", "VB:", "I:", "R:", "Re[2]:", "AW(3):", "WG: AW: WG:", "Betreff:", "Betreff: WG:", "Subject: FW:"),
]
OTHERS = [
    *("https://re.example/x", "care: handle", "mailto:re:x", "re:invent", "store: 4", "Frau TR Meier", "WG-Zimmer"),
    *("he said I: never", "my R: drive is full"),
]


class Capitals(Recognizer):
    """Takes every word with a capital for a person; without a kind of its own, no recipe knows it."""

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """Every word with a capital."""
        return [[PiiSpan(*one.span(), "person", one[0]) for one in re.finditer(r"[A-Z]\w+", text)] for text in texts]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_read_by_no_recogniser(prefix: str) -> None:
    text = f"{prefix} Retoure von Krämer\n{prefix} zweitens"
    assert [one.text for one in Capitals(kind="capitals").find_names([text])[0]] == ["Retoure", "Krämer"]
    assert all(text[one.start : one.end] == one.text for one in Capitals(kind="capitals").find_names([text])[0])


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_no_prefix_stays(text: str) -> None:
    assert blank_reply_prefixes(text) == text


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_model_takes_no_prefix_and_no_subject_for_a_person(prefix: str) -> None:
    subjects = ["Retoure", "Kündigung", "your order", "Störung im Lager"]
    try:
        found = Rampart().find_names([f"{prefix} {subject}" for subject in subjects])
    except LuthierError as error:
        pytest.skip(f"not to be had here: {error.message}")
    assert [[one.text for one in finds] for finds in found] == [[], [], [], []]
    ((person, *_),) = Rampart().find_names([f"{prefix} Retoure von Sabine Krämer"])
    assert (person.kind, person.text) == ("person", "Sabine Krämer")


def test_time_grows_no_faster_than_the_text() -> None:
    for piece in ("re: ", "re:", "I: ", "  i: ", "Re[2] "):
        assert_linear(blank_reply_prefixes, piece, 2000, floor_s=0.0025)
