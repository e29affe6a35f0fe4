"""Signatures and quoted replies go, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.messages import Message
from luthier.data.cleaning.quoted import QuoteSpan
from luthier.data.cleaning.spans import edits_removing_spans, line_spans
from luthier.data.engine.batch import apply_edits
from luthier.data.operator import RowOperator
from luthier.data.ops.c4_lines import C4Lines
from luthier.data.ops.quoted_replies import QuotedReplies
from luthier.data.ops.signatures import EmailSignatures
from luthier.data.row import Row


def _after(operator: RowOperator, text: str) -> str:
    messages = (Message(role="user", content=text), Message(role="assistant", content="yes"))
    edits = operator.apply([Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)]).edits.get(0, [])
    return apply_edits(text, edits)


@pytest.mark.parametrize(
    "below",
    [
        "-- \nAnn Lee\nHead of Sales\n+1 555 0100",
        "Kind regards,\nAnn Lee",
        "Mit freundlichen Grüßen\n\nJana Müller\nVertrieb",
        "Cordialement,\nLuc",
        "Un saludo\nAna",
        "Met vriendelijke groet,\nJan",
        "Cordiali saluti\nGianni",
        "Atenciosamente,\nJoão",
        "Thanks,\nAnn",
        "Thank you!\nAnn Lee",
        "Best,\nAnn O'Neil\nSales",
        "Gruß\nJan Müller",
        "Merci\nLuc",
        "Pozdrawiam\nJan",
        "С уважением,\nИван",
        "Med vänliga hälsningar\nAnna",
        "Sent from my iPhone",
        "Von meinem iPhone gesendet",
        "This e-mail and any attachments are confidential. If you are not the intended recipient, delete it.",
        "Best regards\nAnn\n\nSent from my iPad",
        "Regards,\nAnn\n-- \nShop Ltd, 1 Road\n\nThis email is confidential and may be privileged.",
    ],
)
def test_signatures_go(below: str) -> None:
    assert _after(EmailSignatures(), f"The lamp is broken.\nPlease send another.\n\n{below}\n") == (
        "The lamp is broken.\nPlease send another."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Kind regards,\nAnn Lee",
        "Give my best regards to the team, they did well.",
        "Cheers\nfor the help! But what about my second question, which nobody has answered since Monday morning?",
        "Best regards\nAnn\nPS: the invoice is missing, too",
        "first\n--\n" + "\n".join(f"line {n}" for n in range(20)),
        "one line only -- \nor two",
        "It came today.\nThanks\nI will send the other one back.",
        "It came today.\nThanks\nthat was quick",
        "It came today.\n\nThanks",
        "Which is\nBest\n1. Ann\n2. Bob",
        "Here is the dump:\n--\n-- Table x\n--\nCREATE TABLE x (id int);",
        "A letter:\n```\nDear Sir,\n\nKind regards,\nAnn\n```",
        "Dear Sir,\nplease mend it.\n\nBest regards,\n[Your Name]\n[Your Title]",
        "Sehr geehrte Frau Lee,\nes ist kaputt.\n\nMit freundlichen Grüßen\n[Ihr Name]",
        "Madame,\nil est cassé.\n\nCordialement,\n[Votre nom]",
    ],
)
def test_what_is_no_signature_stays(text: str) -> None:
    assert _after(EmailSignatures(), text) == text


def test_names_in_a_signature_stand_in_no_event() -> None:
    signed = "Late.\n\nKind regards\nAnn Lee, 12"
    messages = (Message(role="user", content=signed), Message(role="assistant", content="a"))
    edit = EmailSignatures().apply([Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)]).edits[0][0]
    assert edit.hidden == "\n\nKind regards\n*** ***, **"


def test_closing_phrases_can_stay() -> None:
    text = "It came broken.\n\nKind regards\nAnn"
    assert _after(EmailSignatures(closings=False), text) == text


def test_quoted_replies_go() -> None:
    assert _after(QuotedReplies(), "Yes.\n\nOn 3 Feb 2025 Desk wrote:\n> Is it on?\n>> It is off.\n") == "Yes."
    assert _after(QuotedReplies(), "> Is it on?\nYes.\n\n> And now?\n\nNo.") == "Yes.\n\nNo."
    assert _after(QuotedReplies(), "> Only what was written before.\n") == "> Only what was written before.\n"
    assert _after(QuotedReplies(), "if x > 3:\n    print(x)") == "if x > 3:\n    print(x)"


def test_menus_of_pages_go() -> None:
    text = "Home | News | About\nTwo sisters opened the shop in 1987.\n\n\nPlease enable JavaScript to see more.\n"
    messages = (Message(role="assistant", content=text),)
    edits = C4Lines().apply([Row(0, "0" * 16, "csv", "f.csv", 2, "completion", messages)]).edits[0]
    assert apply_edits(text, edits) == "Two sisters opened the shop in 1987."


@given(st.lists(st.sampled_from(["a line", "b", "", "  ", "\t"]), max_size=12).map("\n".join), st.data())
def test_cutting_lines_leaves_the_others(text: str, data: st.DataObject) -> None:
    lines = line_spans(text)
    assert "".join(text[span.start : span.end] for span in lines) == text
    chosen = data.draw(st.sets(st.sampled_from(lines))) if lines else set()
    left = [text[span.start : span.end].strip() for span in lines if span not in chosen]
    edits = edits_removing_spans("f", text, chosen, "test")
    if not any(left):
        assert edits == []
    else:
        assert [line.strip() for line in apply_edits(text, edits).split("\n") if line.strip()] == list(
            filter(None, left)
        )


def test_many_cuts_take_linear_time() -> None:
    text = "> a\nb\n\n" * 50_000
    assert len(_after(QuotedReplies(), text)) < len(text)
    spans = [QuoteSpan(at, at + 4) for at in range(0, len(text), 7)]
    assert len(edits_removing_spans("f", text, spans, "test")) == 50_000
