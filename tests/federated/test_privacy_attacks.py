"""Rows are rebuilt from an unprotected update and told from strangers; masks, noise and a site's policy stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from scipy.stats import binom

from federations import Sites, build_sites
from luthier.federated.secure_aggregation.masks import MASKED
from privacy_attacks import (
    NAMES,
    ONE_STEP,
    SECRET_ROWS,
    audit_scores,
    bound_epsilon,
    compare_likelihoods,
    hear_round,
    list_row_tokens,
    read_masked,
    rebuild_tokens,
    score_candidates,
)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return build_sites(tmp_path_factory.mktemp("victims"), {name: [SECRET_ROWS[at]] for at, name in enumerate(NAMES)})


def rebuild(victims: Sites, patch: pytest.MonkeyPatch, digest: str, **settings: Any) -> float:
    """The share of the first site's tokens that a coordinator finds in its update."""
    heard = hear_round(patch.setattr)
    step = victims.step(NAMES, rounds=1, sum="ffa", local={"steps": 1}, tune=ONE_STEP, **settings)
    victims.federate(step, digest=digest * 16)
    right = list_row_tokens(victims, SECRET_ROWS[0])
    found = rebuild_tokens(victims, heard[0], read_masked(heard[0], "north"), len(right))
    return score_candidates(right, found)


def test_one_rows_tokens_are_rebuilt_from_its_update(victims: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rebuild(victims, monkeypatch, "1a") == 1.0, "the attack succeeds: every word of the row is there"


def test_not_under_masks(victims: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rebuild(victims, monkeypatch, "2a", secure={}) < 0.3


def test_not_with_noise(victims: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    privacy = {"epsilon": 4.0, "delta": 1e-2}
    assert rebuild(victims, monkeypatch, "3a", privacy=privacy) < 0.5


def test_the_bound_of_an_audit_is_the_papers() -> None:
    """Without δ the bound is that of a binomial test; δ only lowers it, and chance proves nothing."""
    assert bound_epsilon(100, 100, 50, 0.0) == 0.0
    sure = bound_epsilon(100, 100, 100, 0.0)
    assert binom.sf(99, 100, 1 / (1 + numpy.exp(-sure))) == pytest.approx(0.05, rel=0.02)
    assert 0 < bound_epsilon(100, 100, 90, 1e-4) < bound_epsilon(100, 100, 90, 0.0) < sure


@pytest.mark.slow
def test_an_audit_is_never_above_the_epsilon_of_randomized_response() -> None:
    """Scores that are a coin's own answer with noise of a known ε: the bound holds in 95 of 100 runs."""
    chance, told = numpy.random.default_rng(4), 1.0
    above = 0
    for _ in range(100):
        inside = chance.integers(0, 2, 300)
        honest = chance.random(300) < 1 / (1 + numpy.exp(-told))
        scores = numpy.where(honest, inside, 1 - inside) + 0.01 * chance.random(300)
        above += audit_scores(scores, inside, 0.0)[0] > told
    assert above <= 9  # of 100 runs at 5 in 100, more have a chance of 2 %


def test_shadow_models_tell_members_better_than_a_threshold() -> None:
    chance = numpy.random.default_rng(3)
    hardness, shadows = chance.normal(0, 5, 200), 12
    inside = chance.integers(0, 2, (shadows + 1, 200))
    scores = hardness + 1.5 * inside + chance.normal(0, 0.7, inside.shape)
    by_ratio = audit_scores(compare_likelihoods(scores[0], scores[1:], inside[1:]), inside[0], 1e-5)[0]
    by_loss = audit_scores(scores[0], inside[0], 1e-5)[0]
    assert by_ratio > 1.0 > by_loss


def test_masked_numbers_look_like_noise(victims: Sites, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard = hear_round(monkeypatch.setattr)
    victims.federate(
        victims.step(NAMES, rounds=1, sum="ffa", local={"steps": 1}, tune=ONE_STEP, secure={}), digest="4a" * 16
    )
    bits = heard[0].updates["north"][MASKED].numpy().view(numpy.uint8)
    assert abs(float(numpy.unpackbits(bits).mean()) - 0.5) < 0.01
    assert torch.unique(heard[0].updates["north"][MASKED]).numel() == heard[0].updates["north"][MASKED].numel()
