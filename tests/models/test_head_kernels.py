"""Log-probabilities by compiled kernels are those of fp32 logits; heads that they cannot serve are left to torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from luthier.models.kernels import head_ops
from luthier.models.kernels.calls import disable_kernels
from luthier.models.kernels.compile import IN_ANY_ORDER, compile_library, find_c_compiler
from luthier.models.kernels.head_ops import HeadKernels, get_head_kernels
from luthier.models.kernels.trial import passes_head_trial
from luthier.models.packing.head import LogitTransform, OutputHead

KERNELS = get_head_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason=f"no kernels for the head here (compiler: {find_c_compiler()})")


@pytest.fixture
def kernels() -> HeadKernels:
    found = get_head_kernels()
    assert found is not None
    return found


@pytest.fixture
def one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it, and a process that has looked for no kernels yet."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    head_ops._kernels.cache_clear()
    yield tmp_path
    head_ops._kernels.cache_clear()


def draw(*shape: int, seed: int = 0, by: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * by).bfloat16()


def exact(states: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax(states.double() @ weight.double().t(), -1)


@pytest.mark.parametrize(("rows", "words", "width"), [(1, 5, 32), (37, 300, 64), (400, 1283, 96), (50, 128, 32)])
@pytest.mark.parametrize("by", [0.1, 3.0])
def test_they_are_as_near_to_float64_as_fp32_logits(
    kernels: HeadKernels, rows: int, words: int, width: int, by: float
) -> None:
    states, weight = draw(rows, width), draw(words, width, seed=1, by=by)
    wanted = exact(states, weight)
    targets = torch.arange(rows) * 7 % words
    targets[-1] = words - 1
    wide = torch.log_softmax(states.float() @ weight.float().t(), -1).double()
    bound = 2 * (wide - wanted).abs().max() + 2e-6 * wanted.abs().max()
    own, first = torch.arange(rows), torch.zeros(rows, dtype=torch.bool)
    found = kernels.logprobs(states, weight, targets, None, first)
    assert (found.double() - wanted[own, targets]).abs().max() <= bound
    assert torch.equal(first, wanted.argmax(-1) == targets)
    room = torch.empty(rows, words, dtype=torch.bfloat16)
    assert torch.equal(kernels.slopes(states, weight, targets, room), found)
    slopes = -wanted.exp()
    slopes[own, targets] += 1
    assert (room.double() - slopes).norm() <= 4e-3 * slopes.norm() + 1e-6


def test_several_tokens_may_follow_one_state_and_none(kernels: HeadKernels) -> None:
    states, weight = draw(5, 32), draw(70, 32, seed=1)
    places, targets = torch.tensor([4, 0, 4, 2, 0, 4]), torch.tensor([69, 3, 0, 3, 3, 12])
    wanted = exact(states, weight)
    first = torch.zeros(6, dtype=torch.bool)
    found = kernels.logprobs(states, weight, targets, places, first)
    torch.testing.assert_close(found.double(), wanted[places, targets], atol=1e-5, rtol=0)
    assert torch.equal(first, wanted.argmax(-1)[places] == targets)
    assert kernels.logprobs(states, weight, targets[:0], places[:0]).shape == (0,)


def test_a_token_without_a_logit_is_refused_and_what_is_no_number_stays_none(kernels: HeadKernels) -> None:
    states, weight = draw(2, 32), draw(20, 32, seed=1)
    for strange in (-1, 20):
        with pytest.raises(IndexError, match="from 0 to 19"):
            kernels.logprobs(states, weight, torch.tensor([3, strange]))
    states[1, 4] = float("nan")
    room = torch.empty(2, 20, dtype=torch.bfloat16)
    assert kernels.slopes(states, weight, torch.tensor([3, 3]), room).isnan().tolist() == [False, True]
    assert room.isnan().any(-1).tolist() == [False, True]


def test_the_number_of_threads_changes_no_bit(kernels: HeadKernels) -> None:
    states, weight, targets = draw(90, 64), draw(5000, 64, seed=1), torch.arange(90) * 50
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        room = torch.empty(90, 5000, dtype=torch.bfloat16)
        found.append((kernels.slopes(states, weight, targets, room), room))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_frozen_head_gives_the_same_by_kernels_and_by_torch(
    kernels: HeadKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.models.packing.head.PIECE_BYTES", 0)  # sixteen rows a piece
    linear = torch.nn.Linear(64, 300, bias=False).bfloat16().requires_grad_(False)
    targets, up = torch.arange(37), draw(37, seed=2).float()
    quick = []

    def noted(self: HeadKernels, *given: object) -> Tensor:
        quick.append(1)
        return real(self, *given)  # type: ignore[arg-type]

    real = HeadKernels._call_kernel
    monkeypatch.setattr(HeadKernels, "_call_kernel", noted)

    def found() -> list[Tensor]:
        states, first = draw(37, 64).requires_grad_(), torch.zeros(37, dtype=torch.bool)
        logps = OutputHead(linear, LogitTransform()).logprobs(states, targets, first=first)
        given = OutputHead(linear, LogitTransform()).given(states, torch.zeros(5, dtype=torch.long), targets[:5])
        (slope,) = torch.autograd.grad((logps * up).sum(), states)
        return [logps.detach(), given, first.float(), slope.float()]

    ours = found()
    assert len(quick) == 4, "three pieces, and what is given"
    with disable_kernels():
        plain = found()
    assert len(quick) == 4
    for one, other, bound in zip(ours, plain, (1e-5, 1e-5, 0, 2e-2), strict=True):
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


def test_heads_that_learn_or_shape_their_logits_are_left_to_torch(kernels: HeadKernels) -> None:
    states = draw(3, 64)
    frozen = torch.nn.Linear(64, 40, bias=False).bfloat16().requires_grad_(False)
    assert OutputHead(frozen, LogitTransform())._tiles(states) is kernels
    others = [
        (torch.nn.Linear(64, 40, bias=False).bfloat16(), LogitTransform()),
        (torch.nn.Linear(64, 40).bfloat16().requires_grad_(False), LogitTransform()),
        (torch.nn.Linear(64, 40, bias=False).requires_grad_(False), LogitTransform()),
        (frozen, LogitTransform(0.5)),
        (frozen, LogitTransform(1.0, 30.0)),
    ]
    assert [OutputHead(linear, shape)._tiles(states) for linear, shape in others] == [None] * 5
    assert OutputHead(frozen, LogitTransform())._tiles(states.float()) is None
    assert (
        OutputHead(torch.nn.Linear(48, 40, bias=False).bfloat16().requires_grad_(False), LogitTransform())._tiles(
            draw(3, 48)
        )
        is None
    )
    with torch.no_grad():
        assert OutputHead(others[0][0], LogitTransform())._tiles(states) is None


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_what_is_read_is_what_is_learnt_bit_by_bit(kernels: HeadKernels, precise: bool, learns: bool) -> None:
    """A policy and its reference are one at the first step, a ratio of old and new is 1."""
    head = OutputHead(torch.nn.Linear(64, 300, bias=False).bfloat16().requires_grad_(learns), LogitTransform())
    states, targets = draw(40, 64), torch.arange(40)
    learnt = head.logprobs(states.clone().requires_grad_(), targets, precise=precise)
    assert learnt.requires_grad
    with torch.no_grad():
        assert torch.equal(head.logprobs(states, targets, precise=precise), learnt)


@pytest.mark.parametrize("flag", ["-mno-amx-bf16", "-DNOTHING"])
def test_each_way_of_multiplying_passes_its_trial(
    kernels: HeadKernels, one_cache: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """Against torch in fp32; whether it is quicker is for the trial where it is made."""
    times = cycle([0.0, 1.0])
    monkeypatch.setattr("luthier.models.kernels.trial._measure_seconds", lambda _: next(times))
    made = compile_library("head.c", lambda found: passes_head_trial(HeadKernels(found)), *IN_ANY_ORDER, flag)
    assert made is not None
    states, weight, targets = draw(9, 64), draw(333, 64, seed=1), torch.arange(9)
    found = HeadKernels(made).logprobs(states, weight, targets)
    torch.testing.assert_close(found.double(), exact(states, weight)[torch.arange(9), targets], atol=1e-5, rtol=0)


def test_kernels_that_are_wrong_or_slow_are_never_used(
    kernels: HeadKernels, one_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(HeadKernels):
        def slopes(self, *given: object) -> Tensor:
            return super().slopes(*given) * 1.1  # type: ignore[arg-type]

    assert compile_library("head.c", lambda made: passes_head_trial(Wrong(made)), *IN_ANY_ORDER) is None
    assert get_head_kernels() is None
    monkeypatch.setattr("luthier.models.kernels.trial._measure_seconds", lambda _: 1.0)
    assert not passes_head_trial(kernels)
