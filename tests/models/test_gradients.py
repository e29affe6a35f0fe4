"""Gradients with respect to a pack's embeddings equal those of each row alone; the rules of AttnLRP equal LXT's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.models.gradient_rules import are_gradient_rules_active, use_gradient_rules
from luthier.models.packing import gradients
from luthier.models.packing.gradients import compute_embedding_gradients, get_pack_embeddings, repeat_pack
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import Pack, TokenRow, build_pack
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import add_sequence_head
from models.architectures import PACKED, PADDED, Double, adapted, tiny

ROWS = [
    TokenRow([5, 9, 11, 3, 17, 20, 1, 7, 8, 9, 4], [0.0] * 7 + [1.0, 1.0, 0.5, 1.0], "a"),
    TokenRow([5, 9, 11, 3, 17, 20, 1, 12, 3], [0.0] * 7 + [-1.0, -1.0], "b"),
]
"""One prompt with two answers, one of which counts against."""


def alone(model: Any, pack: Pack) -> tuple[float, Tensor]:
    """The weighted sum and its gradient by transformers, each row by itself, added up where the pack shares tokens."""
    total, gradient = 0.0, torch.zeros_like(get_pack_embeddings(model, pack))
    for number, row in enumerate(ROWS):
        ids = torch.tensor([row.ids[: row.needed]])
        leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
        logps = torch.log_softmax(model(inputs_embeds=leaf, use_cache=False).logits[0], -1)
        value = sum(logps[at - 1, row.ids[at]] * row.loss_weights[at] for at in row.targets)
        (own,) = torch.autograd.grad(value, leaf)
        total, begin = total + float(value.detach()), 0
        for span in pack.spans(number):
            gradient[span] += own[0, begin : begin + span.stop - span.start]
            begin += span.stop - span.start
    return total, gradient


@pytest.mark.parametrize("family", [*PACKED, *PADDED])
def test_a_pack_gives_the_gradients_of_its_rows(family: str) -> None:
    with Double():
        model = tiny(family).requires_grad_(False)
        pack = build_pack(ROWS, share_from=1)
        embeddings = get_pack_embeddings(model, pack)
        found = compute_embedding_gradients(model, pack, torch.stack([embeddings, 0.5 * embeddings]))
        value, gradient = alone(model, pack)
        assert float(found.values[0]) == pytest.approx(value, abs=1e-10)
        torch.testing.assert_close(found.gradients[0], gradient, atol=1e-10, rtol=0)
        again = compute_embedding_gradients(model, pack, 0.5 * embeddings[None])
        torch.testing.assert_close(found.gradients[1], again.gradients[0], atol=1e-10, rtol=0)
        with use_gradient_rules(model) as rules:
            relevance = compute_embedding_gradients(model, pack, embeddings[None])
        assert "norm" in rules.taken.values()
        torch.testing.assert_close(relevance.values[0], found.values[0], atol=1e-10, rtol=0)
        assert not torch.allclose(relevance.gradients[0], gradient)
        torch.testing.assert_close(
            compute_embedding_gradients(model, pack, embeddings[None]).gradients[0], gradient, atol=1e-10, rtol=0
        )
    assert not are_gradient_rules_active()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_and_soft_prompts_take_part(family: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    pack = build_pack(ROWS, share_from=1)
    with Double(), silence_peft_warnings():
        models = [adapted(tiny(family))]
        for config in (PromptTuningConfig, PrefixTuningConfig):
            torch.manual_seed(1)
            made = get_peft_model(tiny(family), config(num_virtual_tokens=5, task_type="CAUSAL_LM"))
            models.append(made.double().eval())
        for model in models:
            model.requires_grad_(False)
            embeddings = get_pack_embeddings(model, pack)
            found = compute_embedding_gradients(model, pack, embeddings[None])
            plain = compute_pack_logprobs(model, pack).double() @ pack.weights
            assert float(found.values[0]) == pytest.approx(float(plain), abs=1e-9)
            step = 1e-6 * torch.sin(torch.arange(embeddings.numel(), dtype=torch.float64)).view_as(embeddings)
            ends = compute_embedding_gradients(model, pack, torch.stack([embeddings + step, embeddings - step]))
            slope = float(ends.values[0] - ends.values[1]) / 2
            assert slope == pytest.approx(float((found.gradients[0] * step).sum()), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_layers_of_long_packs_are_computed_again(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family).float().requires_grad_(False)
    pack = build_pack(ROWS, share_from=1)
    embeddings = get_pack_embeddings(model, pack)[None]
    found = []
    for least in (10**6, 1):
        monkeypatch.setattr(gradients, "CHECKPOINT_FROM", least)
        found.append(compute_embedding_gradients(model, pack, embeddings))
        with use_gradient_rules(model):
            found.append(compute_embedding_gradients(model, pack, embeddings))
    for before, after in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(before, after, atol=1e-7, rtol=1e-6)


def test_a_sequence_head_has_gradients() -> None:
    model = tiny("llama")
    model = add_sequence_head(model, ("a", "b", "c")).double().requires_grad_(False)
    torch.manual_seed(2)
    model.score.weight.data.normal_()
    row = TokenRow([5, 9, 11, 3, 17, 1], [0.0] * 5 + [1.0])
    pack = build_pack([row])
    leaf = get_pack_embeddings(model, pack).requires_grad_()
    logits = model.score(model.model(inputs_embeds=leaf[None]).last_hidden_state)[0, -1]
    value = torch.log_softmax(logits, -1)[1]
    found = compute_embedding_gradients(model, pack, leaf.detach()[None])
    assert float(found.values[0]) == pytest.approx(float(value.detach()), abs=1e-6)
    torch.testing.assert_close(found.gradients[0], torch.autograd.grad(value, leaf)[0], atol=1e-6, rtol=1e-5)


def test_repeated_packs_are_whole_packs() -> None:
    pack = build_pack(ROWS, share_from=1)
    many = repeat_pack(pack, 3)
    assert many.unpack() == pack.unpack() * 3
    assert many.tokens == 3 * pack.tokens
    assert many.weights.tolist() == pack.weights.tolist() * 3
    assert repeat_pack(pack, 1) is pack


def test_modules_without_a_rule_are_named() -> None:
    with use_gradient_rules(tiny("mixtral")) as rules:
        assert "MixtralExperts" in rules.missing
        assert rules.taken["MixtralRMSNorm"] == "norm"
    with use_gradient_rules(tiny("lfm2")) as rules:
        assert "Lfm2MLP" in rules.missing  # its activation is a function and no module
    for family, gate in (("llama", "LlamaMLP"), ("phi3", "Phi3MLP")):
        with use_gradient_rules(tiny(family)) as rules:
            assert rules.taken[gate] == "gate"
            assert rules.missing == ()


@pytest.fixture
def lxt() -> Iterator[str]:
    """The folder of LXT's rules, without its door, which imports what transformers has no longer."""
    spec = importlib.util.find_spec("lxt")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("LXT is not installed: it needs an older transformers")
    folder = Path(next(iter(spec.submodule_search_locations)))
    names = {"lxt": folder, "lxt.efficient": folder / "efficient", "lxt.efficient.models": folder / "efficient/models"}
    for name, path in names.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    try:
        yield "lxt.efficient.models"
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lxt"]:
            del sys.modules[name]


class _Eager(dict[str, Any]):
    """A registry that always gives the attention of the module itself, as LXT has patched it."""

    def get_interface(self, name: str, default: Any) -> Any:
        return default


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_the_rules_are_those_of_lxt(family: str, lxt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Double():
        model = tiny(family).requires_grad_(False)
        row = ROWS[0]
        pack = build_pack([row])
        embeddings = get_pack_embeddings(model, pack)
        with use_gradient_rules(model):
            found = compute_embedding_gradients(model, pack, embeddings[None])
        ours = (found.gradients[0] * embeddings).sum(-1)
        modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        for name in ("eager_attention_forward", "ALL_ATTENTION_FUNCTIONS"):
            monkeypatch.setattr(modeling, name, getattr(modeling, name))  # to be put back
        rules = importlib.import_module(f"{lxt}.{family}").attnLRP
        for target in rules:
            for name in ("forward", "_norm"):
                if isinstance(target, type) and name in target.__dict__:
                    monkeypatch.setattr(target, name, target.__dict__[name])
        for target, patch in rules.items():
            patch(target)
        monkeypatch.setattr(modeling, "ALL_ATTENTION_FUNCTIONS", _Eager())
        theirs = tiny(family).requires_grad_(False)
        theirs.set_attn_implementation("eager")
        leaf = theirs.get_input_embeddings()(torch.tensor([row.ids[: row.needed]])).requires_grad_()
        logps = torch.log_softmax(theirs(inputs_embeds=leaf, use_cache=False).logits[0], -1)
        value = sum(logps[at - 1, row.ids[at]] * row.loss_weights[at] for at in row.targets)
        (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(ours, (gradient * leaf).sum(-1)[0].detach(), atol=1e-8, rtol=0)
