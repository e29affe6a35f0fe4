"""What operators would do to a sample is counted, and shown without giving anything away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.messages import Message
from luthier.commands.recipe_text import render_recipe
from luthier.data.row import Row
from luthier.data.suggest.profile import OperatorTrial, SourceProfile
from luthier.data.suggest.propose import propose_recipe
from luthier.data.suggest.trial import SHOWN_CHARS, mask_pii, try_operators

Write = Callable[..., str]


def _rows(*texts: str) -> list[Row]:
    return [
        Row(
            n,
            f"{n:016x}",
            "csv",
            "f.csv",
            n + 2,
            "chat",
            (Message(role="user", content=text), Message(role="assistant", content=f"answer {n}")),
        )
        for n, text in enumerate(texts)
    ]


def _trials(rows: list[Row]) -> dict[str, OperatorTrial]:
    spellings = {"To-Do": "to do"}
    seen = SourceProfile(path="f.csv", kind="csv", rows=len(rows), estimated=False, looked_at=len(rows), broken=0,
        columns={},
                   notes=[], spellings=spellings, answer_words=2)  # fmt: skip
    return try_operators(rows, seen)


def test_edits_are_counted_and_shown_with_what_stands_around_them() -> None:
    found = _trials(_rows("all is well here", "the parcel cost &pound;5 and came late", "double  spaces are untidy"))
    assert found["normalize"].edited == 2
    first = found["normalize"].examples[0]
    assert (first.before, first.after) == (
        "the parcel cost &pound;5 and came late",
        "the parcel cost £5 and came late",
    )


def test_html_that_is_spoken_of_stays(tmp_path: Path) -> None:
    """Pages that were asked for lost all their tags to the operator that was proposed."""
    page = "<html>\n<body>\n<h1>Number {n}</h1>\n</body>\n</html> "
    rows = [{"prompt": f"Write an HTML page {n}", "completion": page.format(n=n)} for n in range(6)]
    rows += [{"prompt": f"My <b>parcel</b> {n} is late ", "completion": f"It comes on day {n}."} for n in range(5)]
    file = tmp_path / "pages.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    proposal = propose_recipe(file)
    assert proposal.ops[0] == {"kind": "normalize", "html": False}
    assert proposal.profile.trials["normalize"].edited == 11
    assert all(change.before.rstrip() == change.after for change in proposal.profile.trials["normalize"].examples)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows[3:]))
    assert propose_recipe(file).ops[0] == {"kind": "normalize"}


def test_a_short_text_is_shown_whole() -> None:
    rows = [replace(row, messages=(Message(role="user", content="a"), Message(role="assistant", content=label)))
            for row, label in zip(_rows(*"abc"), ["to do", "to do", "To-Do"], strict=True)]  # fmt: skip
    assert _trials(rows)["label_spelling"].examples[0].model_dump() == {"before": "To-Do", "after": "to do"}


def test_drops_are_counted_by_reason_and_name_the_line_of_the_twin() -> None:
    found = _trials(_rows("???", "where is it?", "!!!"))
    assert found["quality"] == OperatorTrial(dropped={"quality no_letters": 2}, examples=found["quality"].examples)
    assert [change.after for change in found["quality"].examples] == ["dropped: quality no_letters"]
    rows = _rows("again and again", "again and again")
    same = [replace(row, messages=(row.messages[0], rows[0].messages[1])) for row in rows]
    assert _trials(same)["exact_dedup"].examples[0].after == "dropped: exact duplicate of line 2"


def test_personal_data_never_stands_in_an_example(tmp_path: Path, write: Write) -> None:
    rows = [{"text": f"write  to jo{n}@example.com &amp; wait", "label": "ab"[n % 2]} for n in range(9)]
    text = render_recipe(propose_recipe(tmp_path / write("t.jsonl", rows)), "mine")
    assert "@example.com" not in text
    shown = next(line for line in text.splitlines() if "[EMAIL]" in line)
    assert shown.split('"')[1::2] == ["write to ***@*******.*** & wait", "write to [EMAIL] & wait"]
    assert "[EMAIL:" not in text


def test_what_tells_of_persons_is_shown_as_stars() -> None:
    change = _trials(_rows("It came broken.\n\nCheers\nAnn Lee"))["signatures"].examples[0]
    assert (change.before, change.after) == ("It came broken.\n\nCheers\n*** ***", "It came broken.")


@given(st.text("ab1@. \n+49", max_size=80))
def test_masking_keeps_the_length(text: str) -> None:
    assert len(mask_pii(text)) == len(text)


def test_long_texts_are_shortened() -> None:
    change = _trials(_rows("?" * 5000))["quality"].examples[0]
    assert len(change.before) < SHOWN_CHARS + 4


@pytest.mark.parametrize("rows", [[], ["a perfectly ordinary question about nothing"]])
def test_what_would_do_nothing_is_left_out(rows: list[str]) -> None:
    assert _trials(_rows(*rows)) == {}
