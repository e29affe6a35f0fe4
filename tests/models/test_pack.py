"""Packs give back the rows that went in, and share what can be shared."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import luthier.models.packing.pack
from luthier.models.packing.pack import Pack, TokenRow, build_pack, build_packs, common_prefix_length, pad_pack_size

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
ROWS = st.lists(TOKENS, min_size=1, max_size=8)
SHARE = st.integers(1, 4)


def learnt_at_end(ids: list[int], key: str = "") -> TokenRow:
    return TokenRow([*ids, 7], [0.0] * len(ids) + [1.0], key)


@given(ROWS, SHARE)
def test_unpacking_gives_back_the_rows(rows: list[list[int]], share: int) -> None:
    made = build_pack([learnt_at_end(ids, str(at)) for at, ids in enumerate(rows)], share)
    assert made.unpack() == rows
    assert made.keys == tuple(str(at) for at in range(len(rows)))


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0])), max_size=9), max_size=7), SHARE
)
def test_each_learnt_token_is_predicted_from_the_one_before_it_on_its_path(
    rows: list[list[tuple[int, float]]], share: int
) -> None:
    given_rows = [TokenRow([token for token, _ in row], [weight for _, weight in row]) for row in rows]
    made = build_pack(given_rows, share)
    wanted = [
        (at, place) for at, row in enumerate(given_rows) for place in range(1, len(row.ids)) if row.loss_weights[place]
    ]
    assert made.path.tolist() == [at for at, _ in wanted]
    assert made.targets.tolist() == [given_rows[at].ids[place] for at, place in wanted]
    assert made.weights.tolist() == [given_rows[at].loss_weights[place] for at, place in wanted]
    for source, (at, place) in zip(made.sources.tolist(), wanted, strict=True):
        places = [token for span in made.spans(at) for token in range(span.start, span.stop)]
        assert places[place - 1] == source
        assert made.positions[source] == place - 1


@given(ROWS, SHARE)
def test_the_layout_is_a_forest(rows: list[list[int]], share: int) -> None:
    made = build_pack([learnt_at_end(ids) for ids in rows], share)
    parents, starts = made.parent.tolist(), made.starts.tolist()
    assert starts[0] == 0
    assert starts[-1] == made.tokens
    assert all(parent < at for at, parent in enumerate(parents))
    for at, parent in enumerate(parents[1:], start=1):
        assert parent in {-1, at - 1, *ancestors(at - 1, parents)}  # descendants follow at once
    assert all(begin < end for begin, end in pairwise(starts))
    assert made.tokens <= sum(len(ids) for ids in rows)


def ancestors(segment: int, parents: list[int]) -> list[int]:
    return [] if segment < 0 else [parents[segment], *ancestors(parents[segment], parents)]


@given(ROWS)
def test_sharing_from_one_token_leaves_no_prefix_twice(rows: list[list[int]]) -> None:
    made = build_pack([learnt_at_end(ids) for ids in rows], 1)
    prefixes = {tuple(ids[:end]) for ids in rows for end in range(1, len(ids) + 1)}
    assert made.tokens == len(prefixes)


@given(ROWS, SHARE)
def test_no_two_neighbours_repeat_more_than_is_not_worth_a_branch(rows: list[list[int]], share: int) -> None:
    """The whole trie of a step's rows is found, but for fewer than `share` tokens where two neighbours part."""
    trie = len({tuple(ids[:end]) for ids in rows for end in range(1, len(ids) + 1)})
    made = build_pack([learnt_at_end(ids) for ids in rows], share)
    assert trie <= made.tokens <= trie + (share - 1) * (len(rows) - 1)


@given(ROWS, st.integers(1, 30), SHARE, st.randoms(use_true_random=False))
def test_splitting_never_changes_which_rows_are_read(
    rows: list[list[int]], limit: int, share: int, chance: Random
) -> None:
    given_rows = [
        TokenRow([*ids, 7], [0.0, *(float(chance.randrange(3)) for _ in ids)], str(at)) for at, ids in enumerate(rows)
    ]

    def learnt(parts: list[Pack]) -> list[tuple[str, list[int], list[int], list[float]]]:
        found = []
        for part in parts:
            for row, (key, ids) in enumerate(zip(part.keys, part.unpack(), strict=True)):
                mine = part.path == row
                found.append((key, ids, part.targets[mine].tolist(), part.weights[mine].tolist()))
        return sorted(found)

    assert learnt(build_packs(given_rows, limit, share)) == learnt([build_pack([row]) for row in given_rows])


@given(ROWS, st.integers(1, 20))
def test_splitting_keeps_every_row_and_the_limit(rows: list[list[int]], limit: int) -> None:
    made = build_packs([learnt_at_end(ids, str(at)) for at, ids in enumerate(rows)], limit, share_from=1)
    assert sorted(key for one in made for key in one.keys) == sorted(str(at) for at in range(len(rows)))
    assert all(one.tokens <= limit or one.rows == 1 for one in made)
    found = {key: ids for one in made for key, ids in zip(one.keys, one.unpack(), strict=True)}
    assert found == {str(at): ids for at, ids in enumerate(rows)}


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=6), st.integers(1, 20))
def test_rows_of_one_example_are_never_parted(dataset: list[list[list[int]]], limit: int) -> None:
    rows = [
        replace(learnt_at_end(ids, f"{at}"), group_size=len(example))
        for at, example in enumerate(dataset)
        for ids in example
    ]
    made = build_packs(rows, limit, share_from=1)
    assert sum(one.rows for one in made) == len(rows)
    for one in made:
        for key in set(one.keys):
            assert one.keys.count(key) == len(dataset[int(key)])
            mine = [number for number, name in zip(one.example_index.tolist(), one.keys, strict=True) if name == key]
            assert len(set(mine)) == 1
        assert one.tokens <= limit or len(set(one.keys)) == 1


def test_a_part_of_a_example_is_no_example() -> None:
    with pytest.raises(ValueError, match="parted"):
        build_pack([replace(learnt_at_end([1]), group_size=2)])


def test_a_teachers_choices_stand_beside_the_learnt_tokens() -> None:
    one = replace(learnt_at_end([1, 2]), choices=[[4, 5]], teacher=[[-0.5, -1.5]])
    other = TokenRow([1, 7, 7], [0.0, 1.0, 1.0], choices=[[1, 2], [3, 0]], teacher=[[-1.0, -2.0], [-3.0, -4.0]])
    made = pad_pack_size(build_pack([other, one]))
    assert made.choices is not None
    assert made.teacher is not None
    assert made.choices.tolist() == [[1, 2], [3, 0], [4, 5]]
    assert made.teacher.tolist() == [[-1.0, -2.0], [-3.0, -4.0], [-0.5, -1.5]]
    with pytest.raises(ValueError, match="some of its learnt tokens"):
        build_pack([other, learnt_at_end([1, 2])])


def test_a_long_chain_of_turns_needs_no_deep_recursion() -> None:
    rows = [learnt_at_end([1] * length) for length in range(3, 3000, 2)]
    made = build_pack(rows, 2)
    assert made.tokens == 2999
    assert made.unpack()[-1] == [1] * 2999


def test_short_common_beginnings_are_not_shared() -> None:
    rows = [learnt_at_end([1, 2, 3, 4]), learnt_at_end([1, 2, 3, 5])]
    assert build_pack(rows, share_from=4).tokens == 8
    assert build_pack(rows, share_from=3).tokens == 5


def test_nothing_to_learn_takes_no_token() -> None:
    made = build_pack([TokenRow([1, 2, 3], [0.0, 0.0, 0.0], "empty"), learnt_at_end([4])])
    assert made.unpack() == [[], [4]]
    assert made.tokens == 1


def test_weights_must_match_the_ids() -> None:
    with pytest.raises(ValueError, match="2 ids and 1 weights"):
        TokenRow([1, 2], [0.0])


def test_moving_to_the_same_device_is_free() -> None:
    made = build_pack([learnt_at_end([1, 2])])
    assert made.on(torch.device("cpu")) is made
    moved = made.on(torch.device("meta"))
    assert isinstance(moved, Pack)
    assert moved.ids.device.type == "meta"


@given(ROWS, SHARE)
def test_rounding_adds_one_branch_that_nobody_reads(rows: list[list[int]], share: int) -> None:
    made = build_pack([learnt_at_end(ids) for ids in rows], share)
    wider = pad_pack_size(made)
    assert wider.tokens % 8 == 0
    assert wider.tokens - made.tokens < 8
    assert wider.unpack() == rows
    assert torch.equal(wider.ids[: made.tokens], made.ids)
    assert wider.parent.shape[0] - made.parent.shape[0] == (wider.tokens > made.tokens)


def test_sizes_are_few() -> None:
    sizes = {pad_pack_size(build_pack([learnt_at_end([1] * length)])).tokens for length in range(512, 1025)}
    assert len(sizes) == 65
    assert pad_pack_size(build_pack([TokenRow([1, 2], [0.0, 0.0])])).tokens == 0


def test_common_counts_leading_ids() -> None:
    assert common_prefix_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix_length([1], [1, 2]) == 1
    assert common_prefix_length([], [1]) == 0


def test_what_rows_tell_of_their_tokens_stands_in_the_order_of_the_rows() -> None:
    rows = [
        TokenRow([5, 6, 7], [0.0, 1.0, 1.0], "a", token_values={"old": [-1.0, -2.0]}),
        TokenRow([5, 6, 8], [0.0, 0.0, 1.0], "b", token_values={"old": [-3.0]}),
        TokenRow([5], [0.0], "nothing learnt"),
    ]
    made = build_pack(rows)
    assert made.token_values["old"].tolist() == [-1.0, -2.0, -3.0]
    assert made.on(torch.device("meta")).token_values["old"].device.type == "meta"
    with pytest.raises(ValueError, match="row 'b' does not tell old of each"):
        build_pack([rows[0], replace(rows[1], token_values={})])


def test_rows_that_share_every_token_are_parted_by_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty labels for each of sixty questions: no forest is grown only to find out how large it would be."""
    draw = Random(0)
    labels = [[draw.randrange(9) for _ in range(6)] for _ in range(50)]
    questions = [[draw.randrange(9) for _ in range(12)] for _ in range(60)]
    rows = [learnt_at_end([*question, *label]) for question in questions for label in labels]
    wanted = build_packs(rows, 2000, share_from=1)
    grown: list[int] = []
    grow = luthier.models.packing.pack._grow

    def counting(ids: list[list[int]], share_from: int) -> object:
        grown.append(len(ids))
        return grow(ids, share_from)

    monkeypatch.setattr(luthier.models.packing.pack, "_grow", counting)
    found = build_packs(rows, 2000, share_from=1)
    assert [one.ids.tolist() for one in found] == [one.ids.tolist() for one in wanted]
    assert len(grown) == len(found)
    assert max(one.tokens for one in found) <= 2000
    assert len(found) == -(-build_pack(rows, 1).tokens // 2000), "as few as there can be"
