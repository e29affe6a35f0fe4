"""The name of an example is the digest of its content, however it is made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.chat.messages import MEDIA_MARK, Media, Message, ToolCall, example_id, render_message_text
from luthier.core.hashing import digest_of
from luthier.metrics.text import structured

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MESSAGE = st.builds(
    Message, role=st.sampled_from(["user", "assistant", "tool"]), content=TEXT, thinking=TEXT, name=st.none() | TEXT
)
META = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT, max_size=4)


def _plainly(messages: list[Message], label: str | None, meta: dict[str, Any], occurrence: int) -> str:
    content = [message.model_dump(mode="json", exclude_defaults=True) for message in messages]
    return digest_of([content, label, {key: str(value) for key, value in meta.items()}, occurrence])[:16]


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=3), st.none() | TEXT, META, st.integers(0, 3))
def test_the_quick_way_says_what_the_digest_of_the_whole_says(
    messages: list[Message], label: str | None, meta: dict[str, Any], occurrence: int
) -> None:
    assert example_id(tuple(messages), label, meta, occurrence) == _plainly(messages, label, meta, occurrence)


@pytest.mark.parametrize(
    "more",
    [
        {"tool_calls": (ToolCall(name="look", arguments={"at": [1, None]}),)},
        {"tool_call_id": "c1"},
        {"tag": "greeting"},
        {"learn": False},
    ],
)
def test_what_is_no_text_counts(more: dict[str, Any]) -> None:
    messages = [Message(role="user", content="hi"), Message(role="assistant", content="ok", **more)]
    plain = (messages[0], Message(role="assistant", content="ok"))
    assert example_id(tuple(messages), None, {}) == _plainly(messages, None, {}, 0)
    assert example_id(tuple(messages), None, {}) != example_id(plain, None, {})


def test_calls_are_spelled_out_as_metrics_read_them() -> None:
    calls = (ToolCall(name="find", arguments={"of": "é", "n": 2}), ToolCall(name="stop", arguments={}))
    turn = Message(role="assistant", content="One moment.", tool_calls=calls)
    assert structured.parse_canonical_tool_calls(render_message_text(turn)) == [
        ("find", '{"n": 2, "of": "é"}'),
        ("stop", "{}"),
    ]
    assert render_message_text(Message(role="assistant", content="No.")) == "No."


def _picture(digest: str) -> Media:
    return Media(kind="image", digest=digest * 64, format="png", size=70, width=2, height=3)


def test_pictures_count_by_their_digest_and_have_a_place_each() -> None:
    rows = [(Message(role="user", content=f"{MEDIA_MARK} What is it?", media=(_picture(name),)),) for name in "ab"]
    assert example_id(rows[0], None, {}) != example_id(rows[1], None, {})
    smaller = rows[0][0].model_copy(update={"media": (_picture("a").model_copy(update={"width": 1}),)})
    assert example_id((smaller,), None, {}) == example_id(rows[0], None, {})
    assert Message.model_validate_json(rows[0][0].model_dump_json(exclude_defaults=True)) == rows[0][0]
    with pytest.raises(ValidationError, match=r"1 pictures and sounds have 2 places"):
        Message(role="user", content=MEDIA_MARK * 2, media=(_picture("a"),))
    assert Message(role="user", content=f"text with a stray {MEDIA_MARK}").media == ()
