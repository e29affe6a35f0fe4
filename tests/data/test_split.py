"""Splits are decided by content: stable when rows are added, fair to classes when counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.dedup.shingles import digest8
from luthier.data.split import NAMES, Split, SplitKeys, assign_splits


def _keys(prompts: list[str], groups: list[str] | None = None, labels: list[int] | None = None) -> SplitKeys:
    return SplitKeys(
        np.array([digest8(prompt) for prompt in prompts], np.uint64),
        np.array([digest8(group) if group else 0 for group in groups or [""] * len(prompts)], np.uint64),
        None if labels is None else np.array(labels, np.int32),
    )


def _names(split: Split, keys: SplitKeys, seed: int = 7) -> list[str]:
    return [NAMES[code] for code in assign_splits(split, keys, seed).splits]


PROMPTS = st.lists(st.text("abc", max_size=4), min_size=2, max_size=40)


@settings(max_examples=150, deadline=None)
@given(old=PROMPTS, new=PROMPTS, seed=st.integers(-5, 5))
def test_rows_that_are_added_move_nobody(old: list[str], new: list[str], seed: int) -> None:
    split = Split(test=0.3, validation=0.2)
    before, after = assign_splits(split, _keys(old), seed), assign_splits(split, _keys(old + new), seed)
    if not before.notes + after.notes:
        assert before.splits.tolist() == after.splits.tolist()[: len(old)]


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyzw")), min_size=2, max_size=30))
def test_neither_prompts_nor_groups_are_torn_apart(pairs: list[tuple[str, str]]) -> None:
    prompts, groups = [one for one, _ in pairs], [two for _, two in pairs]
    names = _names(Split(test=0.3, validation=3, train=10), _keys(prompts, groups))
    for keys in (prompts, groups):
        for key in set(keys):
            assert len({name for name, own in zip(names, keys, strict=True) if own == key}) == 1


def test_shares_are_kept_on_average() -> None:
    names = _names(Split(test=0.1, validation=0.05), _keys([f"prompt {n}" for n in range(20_000)]))
    assert abs(names.count("test") / 20_000 - 0.1) < 0.01
    assert abs(names.count("validation") / 20_000 - 0.05) < 0.01


def test_counts_follow_the_classes() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    keys = _keys([f"p{n}" for n in range(1000)], labels=labels)
    names = _names(Split(test=100, train=500), keys)
    held = np.bincount([label for label, name in zip(labels, names, strict=True) if name == "test"])
    assert held.tolist() == [90, 9, 1]
    assert names.count("train") == 500
    assert names.count("not taken") == 400


def test_another_seed_is_another_split() -> None:
    keys = _keys([f"p{n}" for n in range(200)])
    assert _names(Split(test=0.5), keys, 1) != _names(Split(test=0.5), keys, 2)


def test_a_share_that_falls_on_nobody_takes_one_and_says_so() -> None:
    found = assign_splits(Split(test=0.0001), _keys(["a", "b", "c"]), 7)
    assert sorted(NAMES[code] for code in found.splits) == ["test", "train", "train"]
    assert found.notes == ["test: a share of 0.0001 fell on none of 3 rows; one row was taken nevertheless"]


def test_rows_that_the_same_seed_left_to_train_on_are_told_of_it() -> None:
    every = [f"p{n}" for n in range(200)]
    trained = [
        one for one, name in zip(every, _names(Split(test=0.25), _keys(every), 7), strict=True) if name == "train"
    ]
    found = assign_splits(Split(test=0.25), _keys(trained), 7)
    assert "(a split by the same seed left them to train on before: read the rows of its other splits" in found.notes[0]
    assert found.notes[0].endswith("one row was taken nevertheless")
    assert assign_splits(Split(test=0.25), _keys(trained), 8).notes == []


def test_counts_that_groups_do_not_allow_are_said() -> None:
    found = assign_splits(Split(test=3), _keys(["a", "b", "c", "d"], ["g", "g", "h", "h"]), 7)
    assert found.notes == ["test: 2 rows instead of 3 (rows that belong together are not torn apart)"]


def test_a_count_smaller_than_every_group_takes_the_smallest_of_them() -> None:
    keys = SplitKeys(
        prompts=np.arange(1, 31, dtype=np.uint64),
        groups=np.repeat(np.array([1, 2, 3], dtype=np.uint64), [8, 12, 10]),
        labels=None,
    )
    found = assign_splits(Split(test=5, train=4), keys, seed=1)
    held_out = [NAMES[split] for split in found.splits]
    assert held_out.count("test") == 8
    assert held_out.count("train") == 10
    assert any("not torn apart" in note for note in found.notes)


@settings(max_examples=150, deadline=None)
@given(st.data(), PROMPTS, st.sampled_from([0, 0.1, 0.4, 0.9]), st.sampled_from([0, 0.05, 0.5]), st.booleans())
def test_shares_alone_are_given_row_by_row_as_unit_by_unit(
    data: st.DataObject, prompts: list[str], test: float, validation: float, in_groups: bool
) -> None:
    if test + validation >= 1:
        return
    groups = data.draw(st.lists(st.sampled_from(["", "a", "b", "c", *"defghijk"]), min_size=len(prompts)))
    keys = _keys(prompts, groups[: len(prompts)] if in_groups else None)
    split = Split(test=test, validation=validation)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("luthier.data.split._by_shares", lambda split, keys, seed: None)
        by_unit = _names(split, keys)
    assert _names(split, keys) == by_unit
