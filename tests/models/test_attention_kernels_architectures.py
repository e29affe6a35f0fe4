"""Whole models in bfloat16 read and learn with compiled attention as nearly to float64 as with torch's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.models.kernels.attention_ops import AttentionKernels, get_attention_kernels
from luthier.models.kernels.calls import disable_kernels
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import build_pack
from models.architectures import forest, gradients, tiny

pytestmark = pytest.mark.skipif(get_attention_kernels() is None, reason="no attention kernels here")
WIDE = {"hidden_size": 128, "head_dim": 32}
FAMILIES = {
    "llama": WIDE, "mistral-window": WIDE, "qwen2": {"hidden_size": 128}, "qwen3": WIDE, "gemma3": WIDE,
    "phi3": {"hidden_size": 128}, "smollm3-nope": {"hidden_size": 128}, "granite": {"hidden_size": 128},
    "olmo2": {"hidden_size": 128}, "mixtral": WIDE, "neox": {"hidden_size": 128}, "gpt2": {"hidden_size": 128},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_as_near_to_float64_as_with_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = AttentionKernels.attend

    def noted(self: AttentionKernels, *given: Any) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return real(self, *given)

    monkeypatch.setattr(AttentionKernels, "attend", noted)
    made = build_pack(forest())
    narrow = tiny(name, **FAMILIES[name]).bfloat16()
    exact = deepcopy(narrow).double()
    wanted = compute_pack_logprobs(exact, made)
    slopes = gradients(exact, wanted.sum())
    detect_forward_mode(narrow)
    calls.clear()
    found = compute_pack_logprobs(narrow, made)
    mine = gradients(narrow, found.sum())
    assert len(calls) == 2, "each layer's attention is one call"
    with disable_kernels():
        plain = compute_pack_logprobs(narrow, made)
        theirs = gradients(narrow, plain.sum())
    assert len(calls) == 2
    assert (found.double() - wanted).norm() <= 1.3 * (plain.double() - wanted).norm() + 1e-3
    assert mine.keys() == slopes.keys()
    far, bound = (
        torch.stack([(of[key].double() - slopes[key]).norm() / (slopes[key].norm() + 1e-9) for key in slopes]).mean()
        for of in (mine, theirs)
    )
    assert far <= 1.2 * bound + 1e-3
