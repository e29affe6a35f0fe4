"""Ids of examples: the digest of canonical JSON, however it is computed."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.chat.messages import Message, ToolCall, example_id
from luthier.core.hashing import digest_of

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SAID = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXT,
    thinking=TEXT,
    name=st.none() | TEXT,
)
ODD = st.builds(
    Message,
    role=st.just("assistant"),
    content=TEXT,
    learn=st.booleans(),
    tool_calls=st.lists(
        st.builds(ToolCall, name=TEXT, arguments=st.dictionaries(TEXT, st.floats(allow_nan=False) | TEXT)), max_size=2
    ).map(tuple),
)
VALUES = TEXT | st.integers() | st.none() | st.floats() | st.lists(TEXT, max_size=2)


@settings(deadline=None)
@given(st.lists(SAID | ODD, max_size=4), st.none() | TEXT, st.dictionaries(TEXT, VALUES, max_size=4), st.integers(0, 9))
@example([Message(role="user", content='"\\/\x00\x1f\x7f\x80\u2028\U0001f600é')], None, {"é": 1, "z": 2, "a": 3}, 0)
def test_an_id_is_the_digest_of_canonical_json(
    messages: list[Message], label: str | None, meta: dict[str, Any], occurrence: int
) -> None:
    content = [message.model_dump(mode="json", exclude_defaults=True) for message in messages]
    expected = digest_of([content, label, {key: str(value) for key, value in meta.items()}, occurrence])[:16]
    assert example_id(tuple(messages), label, meta, occurrence) == expected


def test_ids_stay_what_they_were() -> None:
    """They stand in people's artifacts, judgments and lists of rows to leave out."""
    asked = (Message(role="user", content="Where is my parcel?"), Message(role="assistant", content="On its way."))
    assert example_id(asked, None, {"n": 1}) == "d4b30001c675d6b9"
    assert example_id(asked, "parcel", {}, 1) == "a258d3a7c61bf28a"
