"""Products by oneDNN are those of torch, however weights lie, and what is computed from them is the same."""

from __future__ import annotations

import pytest
import torch

from luthier.models.kernels import onednn
from luthier.models.kernels.onednn import is_onednn_faster, multiply_by_rows, uses_onednn
from luthier.models.packing.head import LogitTransform, OutputHead


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_products_are_exact_however_weights_lie(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(onednn, "LEAST_PRODUCTS", 0)
    x, wide = draw(rows, 48), draw(40, 64)
    for weight in (draw(40, 48), draw(48, 40).t(), wide[:, :48], wide[5:21, 16:]):
        expected = x.double() @ weight.double().t()
        torch.testing.assert_close(multiply_by_rows(x, weight).double(), expected, rtol=1e-5, atol=1e-5)


def test_what_is_small_or_of_another_type_stays_with_torch() -> None:
    assert not uses_onednn(draw(8, 16), draw(8, 16))
    large = torch.empty(4096, 4096)
    assert uses_onednn(large, large) == is_onednn_faster()
    assert not uses_onednn(large.double(), large.double())
    assert not uses_onednn(large.bfloat16(), large.bfloat16())


@pytest.mark.parametrize("shape", [LogitTransform(), LogitTransform(scale=0.5, softcap=20.0)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_head_gives_the_same_log_probabilities(
    monkeypatch: pytest.MonkeyPatch, shape: LogitTransform, has_bias: bool
) -> None:
    linear = torch.nn.Linear(32, 300, bias=has_bias).requires_grad_(requires_grad=False)
    head, targets = OutputHead(linear, shape), torch.arange(0, 300, 6)
    found = []
    for least in (1 << 60, 0):
        monkeypatch.setattr(onednn, "LEAST_PRODUCTS", least)
        hidden = draw(50, 32).requires_grad_()
        logp = head.logprobs(hidden, targets)
        (slope,) = torch.autograd.grad((logp * draw(50)).sum(), hidden)
        found.append((logp.detach(), slope, head.given(hidden.detach(), torch.arange(50), targets)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
