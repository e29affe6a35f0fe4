"""The kernels of a decoder give what torch gives, and each row the same numbers to the last bit in any company."""

from __future__ import annotations

import platform
from array import array
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from luthier.core.system.process import cpu_features
from luthier.models.attention.backends import AttentionParams
from luthier.models.generation.kv_cache import (
    ForwardBatch,
    ForwardBatchPart,
    KVCache,
    build_kernel_attention,
    kv_cache_attention_torch,
)
from luthier.models.kernels import linear_ops
from luthier.models.kernels.compile import AS_WRITTEN, compile_library, find_c_compiler
from luthier.models.kernels.linear_ops import LinearStruct, RmsNormStruct, RowKernels, get_row_kernels


@pytest.fixture(params=["native", "x86-64-v3", "x86-64-v2"])
def kernels(request: pytest.FixtureRequest) -> RowKernels:
    """This processor's, and those that one without AVX-512 has, and one without AVX."""
    narrower = request.param != "native"
    if narrower and not (platform.machine() == "x86_64" and {"avx2", "fma"} <= set(cpu_features())):
        pytest.skip(f"{request.param} cannot be tried on this processor")
    found = _kernels(f"-march={request.param}") if narrower else get_row_kernels()
    if found is None:
        pytest.skip(f"no kernels here (compiler: {find_c_compiler()})")
    return found


@cache
def _kernels(flag: str) -> RowKernels | None:
    made = compile_library("rows.c", lambda found: linear_ops._passes_row_trial(RowKernels(found)), AS_WRITTEN, flag)
    assert made or not find_c_compiler(), "the compiler's work did not stand its trial"
    return RowKernels(made) if made else None


@pytest.fixture
def no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    linear_ops._load_row_kernels.cache_clear()
    yield
    linear_ops._load_row_kernels.cache_clear()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 16, 33, 96, 577])
@pytest.mark.parametrize("outs", [1, 15, 16, 50])
def test_products(kernels: RowKernels, width: int, outs: int, dtype: torch.dtype) -> None:
    weight, bias = draw(outs, width + 7).to(dtype)[:, :width], draw(outs, seed=1).to(dtype)
    states = draw(71, width, seed=2)
    found = kernels.product(LinearStruct.of(weight, bias), states)
    wanted = states.to(dtype).double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
    for many in (1, 2, 3, 4, 6, 64, 65):
        begin = 71 - many
        assert torch.equal(kernels.product(LinearStruct.of(weight, bias), states[begin:]), found[begin:])


@pytest.mark.parametrize("width", [8, 16, 100])
def test_norms(kernels: RowKernels, width: int) -> None:
    states, weight = draw(3, width), draw(width, seed=1)
    found = kernels.norm(RmsNormStruct(weight.data_ptr(), 1e-5, 0), states)
    torch.testing.assert_close(found, torch.nn.functional.rms_norm(states, (width,), weight, 1e-5))


MANNERS = [
    AttentionParams(0.3),
    AttentionParams(0.3, window=5),
    AttentionParams(0.3, window=17),
    AttentionParams(1.0, softcap=2.0),
    AttentionParams(0.2, sinks=draw(6, seed=9)),
]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize(("d", "of_values"), [(8, 8), (16, 16), (24, 10), (64, 80)])
def test_attention_to_the_past(kernels: RowKernels, manner: AttentionParams, d: int, of_values: int) -> None:
    tables = [array("i", [3, 0, 5]), array("i", [1, 2, 4]), array("i", [7])]
    first = [ForwardBatchPart(0, 19, tables[0]), ForwardBatchPart(0, 40, tables[1])]
    then = [ForwardBatchPart(19, 1, tables[0]), ForwardBatchPart(0, 3, tables[2]), ForwardBatchPart(40, 5, tables[1])]
    ours, plain = KVCache(8), KVCache(8)
    for seed, parts in enumerate((first, then)):
        many = sum(part.new for part in parts)
        new = draw(many, 6, d, seed=seed), draw(many, 2, d, seed=seed + 7), draw(many, 2, of_values, seed=seed + 8)
        visit = ForwardBatch(parts, torch.device("cpu"))
        found = build_kernel_attention(kernels)(new, ours, 0, visit, manner)
        torch.testing.assert_close(found, kv_cache_attention_torch(new, plain, 0, visit, manner), atol=1e-5, rtol=1e-5)


def test_a_prompt_in_portions_is_read_as_in_one_to_the_last_bit(kernels: RowKernels) -> None:
    query, key, value = draw(50, 6, 16), draw(50, 2, 16, seed=1), draw(50, 2, 16, seed=2)
    table = array("i", range(4))

    def read(cuts: list[int]) -> Tensor:
        past, found = KVCache(4), []
        for begin, end in zip([0, *cuts], [*cuts, 50], strict=True):
            visit = ForwardBatch([ForwardBatchPart(begin, end - begin, table)], torch.device("cpu"))
            new = query[begin:end], key[begin:end], value[begin:end]
            found.append(build_kernel_attention(kernels)(new, past, 0, visit, AttentionParams(0.25)))
        return torch.cat(found)

    whole = read([])
    for cuts in ([16], [1, 2, 3], [17, 33, 49], list(range(1, 50))):
        assert torch.equal(read(cuts), whole)


@pytest.mark.parametrize("kernels", ["x86-64-v3"], indirect=True)
def test_processors_of_any_width_give_the_same_bits(kernels: RowKernels) -> None:
    own, states, weight = get_row_kernels(), draw(11, 577), draw(50, 577, seed=1)
    assert own is not None
    assert torch.equal(kernels.product(LinearStruct.of(weight), states), own.product(LinearStruct.of(weight), states))


@pytest.mark.usefixtures("no_kernels")
def test_without_a_compiler_there_are_none() -> None:
    assert get_row_kernels() is None
