"""Texts inside nested values, and putting others in their place."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luthier.data.cleaning.leaves import iter_leaves, iter_unusual_key_names, replace_text_at_pointer, text_at_pointer

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(NESTED)
def test_every_leaf_is_where_it_says_and_only_it_changes(value: Any) -> None:
    found = dict(iter_leaves(value))
    for path, text in found.items():
        assert text_at_pointer(value, path) == text
        changed = dict(iter_leaves(replace_text_at_pointer(value, path, "other")))
        assert changed == {**found, path: "other"}


@given(NESTED)
def test_names_are_changed_one_after_the_other_and_no_entry_is_lost(value: Any) -> None:
    before, called = list(iter_leaves(value)), list(iter_unusual_key_names(value))
    for path, name in called:
        assert text_at_pointer(value, path) == name
        value = replace_text_at_pointer(value, path, "other")
    assert [text for _, text in iter_leaves(value)] == [text for _, text in before]
    assert all(name.startswith("other") for _, name in iter_unusual_key_names(value))


def test_a_plain_word_is_no_name_to_look_at() -> None:
    value = {"owner_id": [{"jo@firm.test": 1, "#0": 2, "created_at": 3}], "4111111111111111": {}}
    assert dict(iter_unusual_key_names(value)) == {
        "/owner_id/0/#0": "jo@firm.test",
        "/owner_id/0/#1": "#0",
        "/#1": "4111111111111111",
    }
    assert text_at_pointer(value, "/owner_id/0/~20") == "2"
