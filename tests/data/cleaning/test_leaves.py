"""Texts inside nested values, and putting others in their place."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luthier.data.cleaning.leaves import leaf, leaves, with_leaf

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(NESTED)
def test_every_leaf_is_where_it_says_and_only_it_changes(value: Any) -> None:
    found = dict(leaves(value))
    for path, text in found.items():
        assert leaf(value, path) == text
        changed = dict(leaves(with_leaf(value, path, "other")))
        assert changed == {**found, path: "other"}
