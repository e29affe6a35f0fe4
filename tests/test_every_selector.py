"""Every selector keeps a selector's promises: each row once, in an order that depends on content and seed only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.data.selector import LabelingPool, SelectionCandidate, Selector
from tiny_models import tiny_encoder

KINDS = sorted(components_by_kind(Selector))
TOPICS = ("refund of the invoice", "parcel by courier", "password and login", "colour of the sofa")


def _candidate(n: int, text: str, shares: list[float] | None) -> SelectionCandidate:
    told = None if shares is None else dict(zip("abc", shares, strict=True))
    return SelectionCandidate(f"{n * 7919 % 9973:016x}", "f.csv", n, text, told)


def pool(count: int = 40, seed: int = 3, labelled: tuple[str, ...] = ()) -> LabelingPool:
    random = np.random.default_rng(0)
    shares = random.dirichlet([0.6] * 3, count)
    texts = [f"my {TOPICS[n % 4]} number {n} is {'late' if n % 3 else 'wrong'}" for n in range(count)]
    return LabelingPool([_candidate(n, texts[n], shares[n].tolist()) for n in range(count)], labelled, seed)


@pytest.fixture(params=KINDS)
def selector(request: pytest.FixtureRequest) -> Selector:
    return components_by_kind(Selector)[request.param].model_validate({})


def test_it_is_documented_and_its_settings_come_back(selector: Selector) -> None:
    member = type(selector)
    assert member.summary()
    assert undescribed(member) == []
    assert Selector.parse(selector.settings()) == selector


@pytest.mark.parametrize("count", [1, 7, 40, 100])
def test_each_row_is_chosen_once_at_most(selector: Selector, count: int) -> None:
    chosen = selector.choose(pool(), count)
    assert len({one.candidate_index for one in chosen}) == len(chosen) == min(count, 40)
    assert all(np.isfinite(one.score) for one in chosen)
    assert chosen == selector.choose(pool(), count)
    assert selector.choose(pool(), 40)[:count] == chosen, "a smaller choice begins a larger one"


def test_the_order_in_which_rows_came_does_not_count(selector: Selector) -> None:
    whole = pool()
    turned = LabelingPool(whole.candidates[::-1], whole.labelled, whole.seed)
    names = [
        [one.candidates[chosen.candidate_index].id for chosen in selector.choose(one, 12)] for one in (whole, turned)
    ]
    assert names[0] == names[1]


def test_nothing_to_choose_from(selector: Selector) -> None:
    assert selector.choose(LabelingPool([], ["a text"], 0), 5) == []


def test_an_encoder_can_make_the_points(selector: Selector, tmp_path: Path) -> None:
    if "embedder" not in type(selector).model_fields:
        pytest.skip("looks at no points")
    tiny_encoder(tmp_path / "tiny")
    other = type(selector).model_validate({"embedder": {"kind": "encoder", "model": "tiny"}})
    whole = replace(pool(), recipe_dir=tmp_path)
    assert [one.candidate_index for one in other.choose(whole, 12)] != [
        one.candidate_index for one in selector.choose(whole, 12)
    ]
