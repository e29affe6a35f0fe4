"""Masks cancel in the sum over all sites and only there; numbers survive them to the last bit of their encoding."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import Sites
from luthier.core.errors import LuthierError
from luthier.federated import update_sum
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.messages import FederationMessage, RoundUpdate
from luthier.federated.secure_aggregation.masks import (
    MASKED,
    BoundError,
    MaskSettings,
    PairMasks,
    compute_scale,
    decode_sum,
    encode_update,
)

ADAPTER = "adapter/adapter_model.safetensors"
KEYS = [FederationIdentity.create(name) for name in ("north", "south", "west", "east")]
GROUPS = {
    count: [PairMasks(own, [other.card for other in KEYS[:count] if other is not own]) for own in KEYS[:count]]
    for count in (3, 4)
}


def build_weights(seed: int, size: float) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {name: size * (2 * torch.rand(shape, generator=chance) - 1) for name, shape in (("b", (3, 2)), ("a", (5,)))}


@given(
    st.sampled_from([3, 4]),
    st.lists(st.integers(1, 1 << 20), min_size=4, max_size=4),
    st.floats(0.001, 1000.0),
    st.integers(0, 1000),
)
def test_the_masked_sum_is_the_sum_of_what_was_encoded(count: int, rows: list[int], bound: float, seed: int) -> None:
    settings = MaskSettings(bound=bound)
    updates = [build_weights(seed + site, bound * 0.999) for site in range(count)]
    encoded = [encode_update(one, rows[at], bound / 2, settings, count) for at, one in enumerate(updates)]
    masked = [GROUPS[count][at].mask(one, "fe" * 16, 2, "digest") for at, one in enumerate(encoded)]
    total = sum(masked[1:], masked[0])
    assert numpy.array_equal(total, sum(encoded[1:], encoded[0]))
    found = decode_sum(total, updates[0], settings, count)
    assert found.rows == sum(rows[:count])
    for name in updates[0]:
        right = sum(rows[at] * one[name].double() for at, one in enumerate(updates)) / found.rows
        fp32 = 2.0**-24 * bound  # the mean is given back in the weights' own precision
        assert float((found.weights[name].double() - right).abs().max()) <= max(bound, 1) * 2.0**-40 + fp32
    assert compute_scale(settings, count) * count * settings.rows * max(1, bound) < 2**63


def test_a_sum_without_one_site_or_over_other_weights_is_noise() -> None:
    settings = MaskSettings()
    encoded = encode_update(build_weights(1, 1.0), 10, 2.0, settings, 3)
    masked = [masks.mask(encoded, "fe" * 16, 1, "digest") for masks in GROUPS[3]]
    for numbers in (masked[:2], [*masked[:2], GROUPS[3][2].mask(encoded, "fe" * 16, 1, "other")], masked[:1]):
        with pytest.raises(LuthierError, match="do not cancel"):
            decode_sum(sum(numbers[1:], numbers[0]), build_weights(1, 1.0), settings, 3)
    again = GROUPS[3][0].mask(encoded, "fe" * 16, 1, "digest")
    assert numpy.array_equal(masked[0], again)
    assert not numpy.array_equal(GROUPS[3][0].mask(encoded, "fe" * 16, 2, "digest"), again), "each round has its own"
    bits = numpy.unpackbits(GROUPS[3][0].mask(numpy.zeros(4096, numpy.uint64), "fe" * 16, 1, "d").view(numpy.uint8))
    assert abs(float(bits.mean()) - 0.5) < 0.005


@pytest.mark.parametrize("value", [65.0, float("nan"), float("inf")])
def test_a_number_beyond_the_bound_is_an_error_at_its_site(value: float) -> None:
    with pytest.raises(BoundError, match="beyond the agreed bound of 64"):
        encode_update({"a": torch.tensor([0.0, value])}, 3, 1.0, MaskSettings(), 3)
    with pytest.raises(BoundError, match="more than the agreed"):
        encode_update({"a": torch.zeros(1)}, 9, 1.0, MaskSettings(rows=8), 3)


def test_a_masked_federation_makes_the_same_weights(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sites.federate(sites.step(rounds=2, sum="alternate"))
    heard = list[FederationMessage]()
    combine = update_sum.UpdateSum.combine

    def hearing(self: Any, updates: Any, *rest: Any) -> Any:
        heard.extend(updates.values())
        return combine(self, updates, *rest)

    monkeypatch.setattr(update_sum.UpdateSum, "combine", hearing)
    masked = sites.federate(sites.step(rounds=2, sum="alternate", secure={}))
    one, other = (load_file(made.path(ADAPTER)) for made in (plain, masked))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-5)
    assert len(heard) == 6
    for message in heard:
        assert isinstance(message.header, RoundUpdate)
        assert (message.header.rows, message.header.steps, message.header.loss) == (None, None, None)
        assert set(message.tensors) == {MASKED}
    rounds = masked.read_json("federation.json")["rounds"]
    assert [entry["rows"] for entry in rounds] == [48, 48]
    assert rounds[0]["loss"] == pytest.approx(plain.read_json("federation.json")["rounds"][0]["loss"], abs=1e-6)
    assert {entry["rows"] for entry in rounds[0]["sites"].values()} == {None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sum": "stack"}, "needs the part of each site"),
        ({"sum": "factors"}, "needs the part of each site"),
        ({"names": ["north", "south"]}, "of 2 sites each knows the others"),
        ({"least": 2}, "more than two thirds of the sites must remain"),
    ],
)
def test_what_masks_do_not_allow_is_refused(sites: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sites.step(secure={}, **settings)


def test_a_site_masks_towards_the_peers_of_its_own_policy_alone(
    sites: Sites, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from site_attacks import build_attack

    attack = build_attack(sites, tmp_path, monkeypatch)
    peers = [KEYS[0], KEYS[1]]
    group = sorted([attack.keys["north"].card.fingerprint, *(peer.card.fingerprint for peer in peers)])
    order = attack.order.model_copy(update={"masks": MaskSettings(), "group": group})
    [reply] = attack.throw(FederationMessage(order).encode(), 0)
    assert b"among other sites than this one and the `peers` of its policy" in reply
