"""What a mail repeats is found, what it says is left, and no text is slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.cleaning.quoted import quoted_spans, without_quoted
from tests.linear import assert_linear

HISTORY = {
    "gmail": "Thanks, that worked.\n\nOn Mon, 3 Feb 2025 at 10:59, Desk <d@a.io> wrote:\n> Try again.\n> D.\n",
    "wrapped": "Thanks, that worked.\n\nOn Mon, 3 Feb 2025 at 10:59, The Desk\n<d@a.io> wrote:\n\n> Try again.\n",
    "without marks": "Thanks, that worked.\n\nOn 3 Feb 2025 Desk wrote:\n\nTry again.\nDesk",
    "german": "Thanks, that worked.\n\nAm 03.02.2025 um 10:59 schrieb Desk:\n> Noch einmal.\n",
    "french": "Thanks, that worked.\n\nLe lun. 3 févr. 2025 à 10:59, Desk a écrit :\n> Encore.\n",
    "outlook": "Thanks, that worked.\n\n-----Original Message-----\nFrom: Desk\nTry again.\n",
    "outlook, newer": (
        "Thanks, that worked.\n\n________________________________\nFrom: Desk <desk@shop.example>\n"
        "Sent: Monday, 3 February 2025\nTo: Ann\nSubject: RE: Help\n\nTry again.\n"
    ),
    "outlook, german": "Thanks, that worked.\n*Von:* Desk\n*Gesendet:* Montag\n*An:* Ann\n*Betreff:* H\n\nNoch.",
    "bare marks": "> Try again.\n\nThanks, that worked.\n",
}


@pytest.mark.parametrize("name", sorted(HISTORY))
def test_history_goes_and_the_answer_stays(name: str) -> None:
    assert without_quoted(HISTORY[name]) == "Thanks, that worked."


def test_answers_between_quoted_lines_stay() -> None:
    text = "Hi,\n> When did it break?\nYesterday.\n> Which model?\nThe red one.\n"
    assert without_quoted(text) == "Hi,\nYesterday.\nThe red one."


@pytest.mark.parametrize(
    "text",
    [
        "On the box somebody wrote:\nfragile",
        "From: my point of view it is broken.\nPlease help.",
        "The value must be x > 3.",
        "Von: mir\nNichts weiter.",
        "-- \nAnn\n",
        "",
    ],
)
def test_what_only_looks_like_history_stays(text: str) -> None:
    assert quoted_spans(text) == []


PIECES = [*">On wrote:1-_\n", "From: a\n", "To: b\n", "Sent: c\n", "On 1 wrote:\n"]


@given(st.lists(st.sampled_from(PIECES)))
def test_spans_stand_apart_and_in_order(pieces: list[str]) -> None:
    text = "".join(pieces)
    at = 0
    for start, end in quoted_spans(text):
        assert at <= start < end <= len(text)
        at = end
    once = without_quoted(text)
    assert len(once) <= len(text)
    assert set(once) <= set(text)


@pytest.mark.parametrize(
    "piece", ["On 1 ", "On 1\n", "> ", ">\n", "From: a\n", "-----", "\n", "On 1 wrote:\n\n\n\n", "> On 1\n"]
)
def test_time_grows_with_the_length_only(piece: str) -> None:
    assert_linear(quoted_spans, piece, 6400 * len(piece), floor_s=0.004)
