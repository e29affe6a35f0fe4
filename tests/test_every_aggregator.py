"""What every aggregator promises: documented, pure, one site stays itself, and exact where it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from documented import undescribed
from federations import Sites, build_sites
from luthier.core.component import components_by_kind
from luthier.federated.aggregator import DOWN, UP, Aggregator, Factors, GlobalWeights, list_modules, stack_products
from luthier.federated.local_training import write_stacked_adapter

AGGREGATORS = components_by_kind(Aggregator)
KINDS = sorted(AGGREGATORS)
LOW_RANK = [kind for kind in KINDS if AGGREGATORS[kind].low_rank]
EXACT = [kind for kind in LOW_RANK if AGGREGATORS[kind].exact]
SHARES = [0.5, 0.3, 0.2]
NAMES = [f"model.layers.{layer}.q_proj{part}default.weight" for layer in range(2) for part in (DOWN, UP)]


def build_updates(kind: str, sites: int = 3, round_number: int = 0) -> list[dict[str, Tensor]]:
    """What sites send in a round: the factor that stands still is the same everywhere."""
    aggregator = AGGREGATORS[kind](kind=kind)
    common, found = torch.Generator().manual_seed(9), []
    still = {name: torch.randn(_shape(name), generator=common) for name in NAMES}
    for site in range(sites):
        chance = torch.Generator().manual_seed(site)
        own = {name: torch.randn(_shape(name), generator=chance) for name in NAMES}
        own["score.weight"] = torch.randn(3, 12, generator=chance)
        found.append({name: still[name] if aggregator.freezes(name, round_number) else own[name] for name in own})
    return found


def _shape(name: str) -> tuple[int, int]:
    return (4, 12) if DOWN in name else (10, 4)


def sent(kind: str, updates: list[dict[str, Tensor]], round_number: int) -> list[dict[str, Tensor]]:
    freezes = AGGREGATORS[kind](kind=kind).freezes
    return [{name: value for name, value in one.items() if not freezes(name, round_number)} for one in updates]


def combine(kind: str, round_number: int = 0, sites: int = 3) -> tuple[list[dict[str, Tensor]], Any]:
    updates = build_updates(kind, sites, round_number)
    shares = SHARES if sites == 3 else [1.0]
    return updates, AGGREGATORS[kind](kind=kind).combine(sent(kind, updates, round_number), shares)


def total(weights: dict[str, Tensor], base: dict[str, Factors], module: str, pair: tuple[str, str]) -> Tensor:
    """What the adapter and what was added to the base come to."""
    down, up = pair
    product = weights[up].double() @ weights[down].double()
    return product + base[module].up.double() @ base[module].down.double() if module in base else product


def sum_products(updates: list[dict[str, Tensor]], down: str, up: str) -> Tensor:
    """The weighted sum of the sites' products, as whole matrices."""
    products = [share * (one[up].double() @ one[down].double()) for share, one in zip(SHARES, updates, strict=True)]
    return torch.stack(products).sum(0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    assert len(AGGREGATORS[kind].summary()) > 20
    assert undescribed(AGGREGATORS[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_pure(kind: str) -> None:
    updates, first = combine(kind)
    _, second = combine(kind)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())
    assert all(torch.equal(one[name], value) for one, two in zip(updates, build_updates(kind), strict=True)
               for name, value in two.items())  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_factor_is_the_weighted_mean(kind: str) -> None:
    updates, found = combine(kind)
    wanted = sum(share * one["score.weight"].double() for share, one in zip(SHARES, updates, strict=True))
    torch.testing.assert_close(found.weights["score.weight"].double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("round_number", [0, 1])
@pytest.mark.parametrize("kind", EXACT)
def test_the_sum_of_the_products_is_exact(kind: str, round_number: int) -> None:
    updates, found = combine(kind, round_number)
    weights = {**updates[0], **found.weights}
    if AGGREGATORS[kind].restarts:
        weights.update({name: 0 * value for name, value in updates[0].items() if UP in name})
    for module, (down, up) in list_modules(NAMES).items():
        wanted = sum_products(updates, down, up)
        torch.testing.assert_close(total(weights, found.base, module, (down, up)), wanted, atol=2e-5, rtol=0)
    assert found.error is None


@pytest.mark.parametrize("kind", [kind for kind in LOW_RANK if kind not in EXACT])
def test_an_inexact_one_tells_its_error(kind: str) -> None:
    updates, found = combine(kind)
    wrong = right = 0.0
    for down, up in list_modules(NAMES).values():
        wanted = sum_products(updates, down, up)
        got = found.weights[up].double() @ found.weights[down].double()
        wrong, right = wrong + float((got - wanted).square().sum()), right + float(wanted.square().sum())
    assert found.error == pytest.approx((wrong / right) ** 0.5, abs=1e-5)
    assert 0.01 < found.error < 2


@pytest.mark.parametrize("kind", LOW_RANK)
def test_one_site_stays_itself(kind: str) -> None:
    updates, found = combine(kind, sites=1)
    weights = {**updates[0], **found.weights}
    if AGGREGATORS[kind].restarts:
        weights.update({name: 0 * value for name, value in updates[0].items() if UP in name})
    for module, (down, up) in list_modules(NAMES).items():
        wanted = updates[0][up].double() @ updates[0][down].double()
        torch.testing.assert_close(total(weights, found.base, module, (down, up)), wanted, atol=2e-5, rtol=0)


def test_no_adapter_of_the_rank_is_nearer_than_that_of_svd() -> None:
    updates, found = combine("svd")
    down, up = list_modules(NAMES)["model.layers.0.q_proj"]
    wanted = sum_products(updates, down, up)
    sizes = torch.linalg.svdvals(wanted)
    left = (found.weights[up].double() @ found.weights[down].double() - wanted).norm()
    assert float(left) == pytest.approx(float(sizes[4:].norm()), rel=1e-5)
    _, error = combine("factors")[1].weights, combine("factors")[1].error
    assert found.error < error


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return build_sites(tmp_path_factory.mktemp("sites"))


@pytest.mark.matrix("residual", "ffa", "svd", "mean")
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_over_rounds_and_its_model_opens(kind: str, sites: Sites) -> None:
    from luthier.models.load import load_model

    technique = {"kind": "lora", "r": 4} if AGGREGATORS[kind].low_rank else {"kind": "full"}
    rate = 1e-2 if AGGREGATORS[kind].low_rank else 1e-3
    made = sites.federate(sites.step(sum=kind, rounds=2, tune={"technique": technique, "learning_rate": rate}))
    losses = [entry["loss"] for entry in made.read_json("federation.json")["rounds"]]
    assert losses[-1] < losses[0]
    rounds = made.read_json("federation.json")["rounds"]
    assert all((entry["error"] is None) == AGGREGATORS[kind].exact for entry in rounds)
    assert load_model(made, "float32").model is not None


def test_stacked_factors_are_those_of_peft_cat(sites: Sites, tmp_path: Any) -> None:
    """PEFT's `add_weighted_adapter` by `cat` makes the same product as `stack`, read from the files."""
    from safetensors.torch import load_file

    from luthier.models.load import open_folder
    from luthier.tune.techniques.lora import Lora

    base = open_folder(sites.base.folder, torch.float32)
    model = Lora(r=4).adapt(base, 1)
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    updates = []
    for site in range(3):
        chance = torch.Generator().manual_seed(site)
        values = dict(model.named_parameters())
        updates.append({name: torch.randn(values[name].shape, generator=chance) for name in names})
    found = AGGREGATORS["stack"](kind="stack").combine(updates, SHARES)
    (tmp_path / "ours").mkdir()
    write_stacked_adapter(model, found.base, tmp_path / "ours", "base")
    for site, update in enumerate(updates):
        model.add_adapter(f"site{site}", model.peft_config["default"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if f".site{site}." in name:
                    parameter.copy_(update[name.replace(f".site{site}.", ".default.")])
    model.add_weighted_adapter([f"site{site}" for site in range(3)], SHARES, "cat", combination_type="cat")
    ours = load_file(tmp_path / "ours" / "adapter" / "adapter_model.safetensors")
    theirs = dict(model.named_parameters())
    scale = json.loads((tmp_path / "ours" / "adapter" / "adapter_config.json").read_text())
    scale = scale["lora_alpha"] / scale["r"]
    for module, (down, up) in list_modules(names).items():
        cat = theirs[up.replace("default", "cat")] @ theirs[down.replace("default", "cat")]
        layer = model.get_submodule(module)
        mine = ours[f"{module}.lora_B.weight"] @ ours[f"{module}.lora_A.weight"] * scale
        torch.testing.assert_close(mine, cat.detach() * layer.scaling["cat"], atol=1e-3, rtol=1e-4)


def test_weights_begin_from_what_was_given(sites: Sites) -> None:
    """What earlier rounds added to the base is part of what a site computes with."""
    from luthier.federated.local_training import set_global_weights
    from luthier.models.load import open_folder
    from luthier.tune.techniques.lora import Lora

    model = Lora(r=4).adapt(open_folder(sites.base.folder, torch.float32), 1)
    module = next(iter(list_modules(name for name, _ in model.named_parameters())))
    weight = model.get_submodule(module).base_layer.weight
    before, factors = weight.detach().clone(), Factors(torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1]))
    set_global_weights(model, GlobalWeights({}, {module: factors}), 0.5)
    torch.testing.assert_close(model.get_submodule(module).base_layer.weight, before + 0.5)


def test_the_rank_of_what_is_carried_is_limited() -> None:
    one = Factors(torch.randn(6, 5), torch.randn(5, 4))
    both = one.add(one)
    assert both.up.shape[1] <= 4
    torch.testing.assert_close(both.up @ both.down, 2 * one.up @ one.down, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stack_products([{"d": one.down, "u": one.up}], [1.0], "d", "u").up.float(), one.up)
