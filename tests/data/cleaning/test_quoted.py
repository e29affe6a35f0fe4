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
    "a name alone": "Thanks, that worked.\n\nAnn Lee wrote:\n> Try again.\n",
    "forwarded": (
        "Thanks, that worked.\n\n---------- Forwarded message ---------\nFrom: Desk <d@a.io>\n"
        "Date: Mon, 3 Feb 2025\nSubject: Help\nTo: <ann@b.io>\n\nTry again.\n"
    ),
    "apple, forwarded": (
        "Thanks, that worked.\n\nBegin forwarded message:\n\nFrom: Desk\nSubject: Help\nDate: 3 Feb\nTo: Ann\n\nTry.\n"
    ),
    "polish": "Thanks, that worked.\n\npon., 3 lut 2025 o 10:59 Desk <d@a.io> napisał(a):\n\n> Jeszcze raz.\n",
    "finnish": "Thanks, that worked.\n\nma 3. helmik. 2025 klo 10.59 Desk (d@a.io) kirjoitti:\n\n> Uudestaan.\n",
    "russian": "Thanks, that worked.\n\n03.02.2025 10:59, Desk пишет:\n> Ещё раз.\n",
    "chinese": "Thanks, that worked.\n\nDesk <d@a.io> 于2025年2月3日周一 10:59写道：\n\n> 再试一次\n",
    "chinese, outlook": "Thanks, that worked.\n\n发件人: Desk\n发送时间: 2025年2月3日\n收件人: Ann\n主题: 问\n\n再试\n",
    "japanese without marks": "Thanks, that worked.\n\n2025年2月3日(月) 10:59 Desk <d@a.io>:\n\nもう一度\n",
    "korean": "Thanks, that worked.\n\n2025년 2월 3일 (월) 오전 10:59, Desk <d@a.io>님이 작성:\n\n> 다시\n",
    "turkish": "Thanks, that worked.\n\nDesk <d@a.io>, 3 Şub 2025 Pzt, 10:59 tarihinde şunu yazdı:\n\n> Yine.\n",
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
        "Hello,\n\nOn 5 May 2025 I wrote:\n\nMy parcel is broken.\n\nNobody answered. What can I do?",
        "Hello,\nOn line 12 of main.py I wrote this:\n\nprint(1)\n\nWhy does it fail?",
        "Explain the poem.\n\nOn 1 May 1945 the poet wrote these lines:\nRoses are red\nViolets are blue",
        "Hallo,\n\nam 3. Mai 2025 schrieb ich Ihnen:\n\nDas Paket ist kaputt.\n\nBitte antworten Sie.",
        "Bonjour,\nLe 14 juillet 1789, il a écrit dans son journal :\n\nRien.\n\nQui était-ce ?",
        "Sure. Here is the mail:\n\nFrom: me\nTo: Bob\nSubject: Lunch\nDate: Monday\n\nDear Bob,",
        "A draft.\n\nFrom: me\nTo: Bob\nSubject: Lunch\n\nDear Bob,",
        "He said:\n> To be or not to be\nWho wrote it?",
        "She wrote:\n\n> To be or not to be",
        "first prenatal visit.\n>=12 weeks\nreceived the vaccine",
        "Type this:\n\n> cd ..\n> ls\n\nWhat now?",
        ">>> import os\n>>> os.getcwd()\n'/home'\nWhy?",
        "Run this\n```\n> npm install\nFrom: a\nDate: b\nTo: c\n```\nthen that",
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
    "piece",
    [
        "On 1 ",
        "On 1\n",
        "> ",
        ">\n",
        "From: a\n",
        "-----",
        "\n",
        "On 1 wrote:\n\n\n\n",
        "> On 1\n",
        "a:\n> b\n",
        "@ 1:00:\n",
    ],
)
def test_time_grows_with_the_length_only(piece: str) -> None:
    assert_linear(quoted_spans, piece, 6400 * len(piece), floor_s=0.004)
