"""Divergence, drift and logit lens equal those of plain transformers, and those of weights numpy's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from luthier.explain.diff.compare import find_greatest_span
from luthier.explain.diff.divergence import PairReadings, find_settled_layers, read_pair
from luthier.explain.diff.weights import (
    count_intruders,
    decompose_factors,
    decompose_matrix,
    list_adapter_changes,
    list_parameter_changes,
    measure_weight_changes,
)
from luthier.models.packing.pack import TokenRow
from luthier.models.quiet import silence_peft_warnings
from models.making import other_model

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 64},
}
ROWS = [
    TokenRow([5, 9, 12, 44, 7, 80, 3, 61], [0.0] * 4 + [1.0] * 4, "0"),
    TokenRow([5, 9, 12, 44, 7, 80, 31], [0.0] * 5 + [1.0] * 2, "1"),
    TokenRow([101, 4, 33], [0.0, 0.0, 1.0], "2"),
]
PAIRS = [(row, row) for row in ROWS]


def open_double(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def adapted(folder: Path, kind: str, *, dora: bool = False) -> Any:
    names = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "o_proj", "down_proj"]
    config = LoraConfig(r=3, target_modules=names, task_type="CAUSAL_LM", use_dora=dora, fan_in_fan_out=kind == "gpt2")
    torch.manual_seed(4)
    with silence_peft_warnings():
        model = get_peft_model(open_double(folder), config).double().eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    return model


def switched(model: Any) -> Any:
    @contextmanager
    def use_base() -> Iterator[None]:
        with model.disable_adapter():
            yield

    return use_base


def lens_parts(model: Any) -> tuple[Any, Any]:
    return (model.model.norm if hasattr(model, "model") else model.transformer.ln_f), model.lm_head


def expected(after: Any, before: Any) -> tuple[list[float], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """By plain transformers, row by row: KL of each answer token, drift by row and layer, and the lens after."""
    kl, drift, lens = [], [], []
    norm, head = lens_parts(after)
    for row in ROWS:
        ids = torch.tensor([row.ids])
        whole = torch.ones_like(ids)
        with torch.no_grad():
            one, other = (
                model(input_ids=ids, attention_mask=whole, output_hidden_states=True) for model in (after, before)
            )
        at = torch.tensor(row.targets) - 1
        p, q = (torch.log_softmax(out.logits[0, at], -1) for out in (one, other))
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        states = [out.hidden_states[:-1] for out in (one, other)]
        drift.append(
            [
                float(((a[0, at] - b[0, at]).norm(dim=1) / b[0, at].norm(dim=1)).sum())
                for a, b in zip(*states, strict=True)
            ]
        )
        for place, target in zip(at.tolist(), row.targets, strict=True):
            with torch.no_grad():
                tops = [int(head(norm(layer[0, place])).argmax()) for layer in states[0]]
            lens.append([float(top == row.ids[target]) for top in [*tops, int(one.logits[0, place].argmax())]])
    return kl, np.array(drift), np.array(lens)


def check(found: PairReadings, after: Any, before: Any) -> None:
    kl, drift, lens = expected(after, before)
    np.testing.assert_allclose(found.tokens.kl, kl, atol=1e-10)
    assert found.tokens.token.tolist() == [row.ids[at] for row in ROWS for at in row.targets]
    np.testing.assert_allclose(found.distance[:, :-1], drift, atol=1e-10)
    assert found.lens is not None
    np.testing.assert_array_equal(found.lens.first_after, lens)


@pytest.mark.parametrize("kind", KINDS)
def test_two_models_and_an_adapter_over_its_base(kind: str, tmp_path: Path) -> None:
    folder = other_model(tmp_path / kind, kind, **KINDS[kind])
    base, other = open_double(folder), open_double(folder)
    torch.manual_seed(2)
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    check(read_pair(other, base, PAIRS, nullcontext), other, base)
    model = adapted(folder, kind)
    found = read_pair(model, model, PAIRS, switched(model))
    assert found.tokens.kl.max() > 1e-4
    check(found, adapted(folder, kind).merge_and_unload(), base)


def test_identical_models_do_not_diverge(tmp_path: Path) -> None:
    base = open_double(other_model(tmp_path / "llama", "llama"))
    found = read_pair(base, base, PAIRS, nullcontext)
    assert not found.tokens.kl.any()
    assert not found.distance.any()
    assert measure_weight_changes(list_parameter_changes(base, base), decompose=4)[0] == []


def numpy_intruders(before: Any, after: Any) -> int:
    was, now = (np.linalg.svd(one, full_matrices=False)[0] for one in (before, after))
    return int((np.abs(was.T @ now[:, :10]).max(0) < 0.5).sum())


@pytest.mark.parametrize(("kind", "dora"), [("llama", False), ("gpt2", False), ("llama", True)])
def test_weights_of_an_adapter_are_those_of_the_merged_model(kind: str, dora: bool, tmp_path: Path) -> None:
    folder = other_model(tmp_path / kind, kind, **KINDS[kind])
    model, base = adapted(folder, kind, dora=dora), open_double(folder)
    merged = dict(adapted(folder, kind, dora=dora).merge_and_unload().named_parameters())
    matrices, layers, total, decomposed = measure_weight_changes(list_adapter_changes(model), decompose=3)
    assert decomposed == 3
    assert set(layers) == {1, 2}
    was = dict(base.named_parameters())
    squares = [0.0, 0.0]
    for matrix in matrices:
        before, after = (one[f"{matrix.name}.weight"].detach().numpy() for one in (was, merged))
        if kind == "gpt2":
            before, after = before.T, after.T
        values = np.linalg.svd(after - before, compute_uv=False)
        squares = [squares[0] + (values**2).sum(), squares[1] + (before**2).sum()]
        assert matrix.distance == pytest.approx(np.sqrt((values**2).sum() / (before**2).sum()), rel=1e-10)
        if matrix.effective_rank is not None:
            shares = values[values > 1e-12] / values.sum()
            assert matrix.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
            assert matrix.top_share == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-8)
        if matrix.intruders is not None:
            assert matrix.intruders == numpy_intruders(before, after)
    assert total == pytest.approx(np.sqrt(squares[0] / squares[1]), rel=1e-10)
    assert any(matrix.intruders is not None for matrix in matrices)


def test_directions_are_numpys_and_intruders_are_found() -> None:
    torch.manual_seed(0)
    up, down = torch.randn(20, 3).double(), torch.randn(3, 12).double()
    for directions, values in (decompose_factors(up, down), decompose_matrix(up @ down)):
        left, expected_values, _ = np.linalg.svd((up @ down).numpy(), full_matrices=False)
        np.testing.assert_allclose(values[:3], expected_values[:3], rtol=1e-10)
        np.testing.assert_allclose(np.abs(np.diag(directions[:, :3].numpy().T @ left[:, :3])), 1, atol=1e-10)
    before = torch.diag(torch.linspace(5, 1, 40).double())
    assert count_intruders(before, before) == 0
    direction = torch.ones(40, 1).double() / 40**0.5  # like none of the forty axes
    assert count_intruders(before, before + 50 * direction @ direction.T) == 1


def test_spans_and_settled_layers() -> None:
    assert find_greatest_span([-1, 2, -1, 3, -5, 1]) == (4, 1, 4)
    assert find_greatest_span([-1.0, -2.0]) == (0.0, 0, 0)
    first = np.array([[0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert find_settled_layers(first) == [1, 0, 2]
