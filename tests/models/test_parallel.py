"""Packs that are only read go side by side in threads: the same numbers with one core and with two, and in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from luthier.models.generate import compute_loglikelihoods
from luthier.models.packing import parallel
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import Pack, TokenRow, build_packs
from luthier.models.packing.parallel import run_packs
from luthier.models.packing.parallel_plan import LANES
from luthier.models.packing.prefix_cache import PrefixCache, share_prefixes
from models.test_generate import llama, mamba, opened
from models.test_prefix_cache import asked

TOKENS = 4096


@pytest.fixture(params=[1, 2])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A machine of one or two cores, on which even few tokens are read side by side."""
    before = torch.get_num_threads()
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 1)
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rows(count: int = 24) -> list[TokenRow]:
    """Rows that share nothing."""
    draw = random.Random(5)
    ids = [[draw.randrange(3, 40) for _ in range(draw.randint(6, 14))] for _ in range(count)]
    return [TokenRow(one, [0.0] * (len(one) - 2) + [1.0] * 2, str(at)) for at, one in enumerate(ids)]


def found(read: list[tuple[Pack, torch.Tensor]]) -> dict[str, float]:
    """Each row's sum."""
    sums: dict[str, float] = {}
    for pack, said in read:
        totals = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, pack.path, said.double())
        sums |= dict(zip(pack.keys, totals.tolist(), strict=True))
    return sums


def test_as_one_after_another(cores: int) -> None:
    model = opened(llama).model
    with torch.no_grad():
        wanted = found([(one, compute_pack_logprobs(model, one)) for one in build_packs(rows(), TOKENS)])
    read = run_packs(model, rows(), TOKENS, partial(compute_pack_logprobs, model))
    assert len(read) == LANES, "whatever the cores are"
    assert found(read) == pytest.approx(wanted, abs=1e-5)


def test_the_cores_change_no_bit(cores: int) -> None:
    model = opened(llama).model
    told = run_packs(model, rows(), TOKENS, partial(compute_pack_logprobs, model))
    with torch.no_grad():
        assert all(torch.equal(said, compute_pack_logprobs(model, pack)) for pack, said in told)


def test_threads_are_as_many_as_cores_and_learn_nothing(cores: int) -> None:
    model = opened(llama).model.requires_grad_()
    met = threading.Barrier(LANES) if cores > 1 else None
    seen: set[str] = set()

    def work(pack: Pack) -> bool:
        if met is not None:
            met.wait(60)  # nobody comes past it alone
        seen.add(threading.current_thread().name)
        return compute_pack_logprobs(model, pack).requires_grad

    assert not any(learns for _, learns in run_packs(model, rows(), TOKENS, work))
    assert len(seen) == cores
    assert torch.is_grad_enabled()


def test_few_tokens_stay_one_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(llama).model
    assert len(run_packs(model, rows(4), TOKENS, partial(compute_pack_logprobs, model))) == 1
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 1)
    assert len(run_packs(model, rows(4), TOKENS, partial(compute_pack_logprobs, model))) == LANES
    assert run_packs(model, [], TOKENS, partial(compute_pack_logprobs, model)) == []


def test_what_would_be_computed_twice_is_not_parted(cores: int) -> None:
    model = opened(llama).model
    shared = [3 + at % 37 for at in range(64)]
    alike = [TokenRow([*shared, 3 + at, 5], [0.0] * 65 + [1.0], str(at)) for at in range(8)]
    assert len(run_packs(model, alike, TOKENS, partial(compute_pack_logprobs, model))) == 1
    with torch.no_grad(), share_prefixes(model, alike, PrefixCache()):  # but here it was computed before
        assert len(run_packs(model, alike, TOKENS, partial(compute_pack_logprobs, model))) == LANES


def test_a_model_that_cannot_be_packed_is_read_by_one(cores: int) -> None:
    model = opened(mamba).model
    assert not detect_forward_mode(model).packed
    assert len(run_packs(model, rows(), TOKENS, partial(compute_pack_logprobs, model))) == 1


def test_what_rows_begin_with_is_there_before_two_ask_for_it(cores: int) -> None:
    model = opened(llama).model
    every = asked(64)
    alone = [compute_loglikelihoods(model, [one])[0].logprob for one in every]
    for kept in (None, PrefixCache()):
        told = [one.logprob for one in compute_loglikelihoods(model, every, kept=kept)]
        assert told == pytest.approx(alone, abs=1e-5)


def test_what_goes_wrong_in_a_thread_is_raised_here(cores: int) -> None:
    model = opened(llama).model

    def work(pack: Pack) -> Any:
        raise ArithmeticError("in a lane")

    with pytest.raises(ArithmeticError, match="in a lane"):
        run_packs(model, rows(), TOKENS, work)
    assert len(run_packs(model, rows(), TOKENS, partial(compute_pack_logprobs, model))) == LANES, (
        "and the threads are whole"
    )
