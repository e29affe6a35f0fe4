"""What every merger promises: pure, the same by seed, equal models stay themselves, every setting counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.models.merge import Merger

MERGERS = components_by_kind(Merger)
KINDS = sorted(MERGERS)
OTHERWISE: dict[tuple[str, str], Any] = {
    ("ties", "density"): 0.6,
    ("ties", "sign"): "frequency",
    ("dare", "drop"): 0.2,
    ("dare", "sign"): "total",
}
"""Another value for each field, which must change what comes out."""
FIELDS = [(kind, name) for kind in KINDS for name in MERGERS[kind].model_fields if name != "kind"]


def changes(models: int = 3) -> Tensor:
    return torch.randn(models, 30, 20, generator=torch.Generator().manual_seed(1))


def combined(kind: str, seed: int = 5, **fields: Any) -> Tensor:
    merger = MERGERS[kind].model_validate({"kind": kind, **fields})
    return merger.combine(changes(), torch.full((3,), merger.share(3)), seed)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    assert len(MERGERS[kind].summary()) > 20
    assert undescribed(MERGERS[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_change(kind: str) -> None:
    torch.manual_seed(1)
    one = combined(kind)
    torch.manual_seed(2)
    assert torch.equal(one, combined(kind))
    given = changes()
    assert combined(kind).shape == given.shape[1:]
    assert torch.equal(given, changes())


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_changed_alike_merge_into_themselves(kind: str) -> None:
    alike = changes(1).repeat(4, 1, 1)
    keep_all: dict[str, Any] = {"ties": {"density": 1.0}, "dare": {"drop": 0.0}}.get(kind, {})
    merger = MERGERS[kind].model_validate({"kind": kind, **keep_all})
    came = merger.combine(alike, torch.full((4,), merger.share(4)), 5)
    torch.testing.assert_close(came, alike[0])


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    assert not torch.equal(combined(kind), combined(kind, **{name: OTHERWISE[kind, name]}))


def test_dare_keeps_the_sum_and_drops_what_it_says() -> None:
    ones = torch.ones(1, 400, 400)
    came = MERGERS["dare"].model_validate({"kind": "dare", "drop": 0.9}).combine(ones, torch.ones(1), 3)
    assert (came == 0).float().mean() == pytest.approx(0.9, abs=0.01)
    assert came.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_is_pefts(sign: Any, density: float) -> None:
    from peft.utils.merge_utils import ties

    weights = torch.tensor([0.5, 2.0, 1.0])
    came = MERGERS["ties"].model_validate({"kind": "ties", "density": density, "sign": sign})
    wanted = ties(list(changes()), weights, density, sign)
    torch.testing.assert_close(came.combine(changes(), weights, 0), wanted)


@pytest.mark.parametrize("sign", ["all", "total", "frequency"])
def test_dare_is_pefts_but_for_the_dice(sign: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.utils import merge_utils

    weights, kept = torch.tensor([0.5, 2.0, 1.0]), iter(_kept())
    monkeypatch.setattr(torch, "bernoulli", lambda chances: next(kept))
    wanted = (
        merge_utils.dare_linear(list(changes()), weights, 0.5)
        if sign == "all"
        else merge_utils.dare_ties(list(changes()), weights, 0.5, sign)
    )
    came = MERGERS["dare"].model_validate({"kind": "dare", "drop": 0.5, "sign": sign})
    torch.testing.assert_close(came.combine(changes(), weights, 9), wanted)


def _kept() -> Tensor:
    """Which changes our own dice leave with seed 9."""
    halves = MERGERS["dare"].model_validate({"kind": "dare"})
    return torch.stack([halves.combine(torch.ones(3, 30, 20), row, 9) / 2 for row in torch.eye(3)])
