"""The quicker norm gives what transformers' own gives, in bfloat16, and leaves all others alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from luthier.models.kernels.norms import install_fast_norm
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack
from tiny_models import tiny_model


def both(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    out = norm(x)
    return [out, *torch.autograd.grad(out, [x, norm.weight], grad)]


def test_numbers_and_gradients_are_those_of_fp32_rounded() -> None:
    torch.manual_seed(1)
    exact = LlamaRMSNorm(64, eps=1e-5)
    exact.weight.data.uniform_(0.5, 1.5)
    x, grad = torch.randn(2, 9, 64).bfloat16(), torch.randn(2, 9, 64).bfloat16()
    norm = LlamaRMSNorm(64, eps=1e-5).bfloat16()
    norm.weight.data.copy_(exact.weight)
    exact.weight.data.copy_(norm.weight)
    wanted = both(exact, x.float().requires_grad_(), grad.float())
    assert install_fast_norm(norm) == 1
    for found, want in zip(both(norm, x.requires_grad_(), grad), wanted, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - want).norm() <= 5e-3 * want.norm()


def test_norms_of_another_kind_or_precision_are_left_alone() -> None:
    assert install_fast_norm(LlamaRMSNorm(16)) == 0
    shifted = Gemma2RMSNorm(16).bfloat16()
    shifted.weight.data.normal_()
    assert install_fast_norm(shifted) == 0


@pytest.mark.parametrize("trained", [False, True])
def test_a_pack_keeps_less(trained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(tmp_path)
    rows = [TokenRow(list(range(5, 60)), [0.0] * 54 + [1.0])]
    kept: list[int] = []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr("luthier.models.kernels.norms.install_fast_norm", lambda _: 0)
        model = open_folder(tmp_path, torch.bfloat16)
        model.get_input_embeddings().weight.requires_grad_(trained)
        model.get_input_embeddings().register_forward_hook(lambda *args: args[2].requires_grad_())
        detect_forward_mode(model)
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            compute_pack_logprobs(model, build_pack(rows))
        kept.append(sum(sizes.values()))
    assert kept[0] < kept[1]
