"""Two packs side by side give the gradient of one after another, the same bits each time, and never more memory."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import Pack, TokenRow, build_pack
from luthier.models.packing.parallel import WorkerThreads, count_parallel_packs
from luthier.models.packing.parallel_plan import LANES, plan_parallel_packs
from luthier.tune.objectives.distil import Distil
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import TechniqueBase
from luthier.tune.techniques.adapter import BottleneckAdapter
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.prefix import PrefixTuning
from luthier.tune.techniques.qlora import Qlora
from luthier.tune.training import pack_gradient, parallel
from luthier.tune.training.parallel import schedule_parallel_packs
from luthier.tune.training.trainer import Trainer
from models.architectures import Double
from tune.test_gradients import TinyTraining, same
from tune.test_memory_probe import NO_MEMORY
from tuning import TuneEnv, adapted, interrupted, make_env

pytestmark = pytest.mark.usefixtures("two_cores")
TWO: dict[str, Any] = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "technique": Lora(r=4)}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def row(ids: list[int], key: str = "") -> TokenRow:
    return TokenRow(ids, [0.0] * (len(ids) - 1) + [1.0], key)


def apart(lengths: list[int]) -> list[TokenRow]:
    return [row([at + 1] * length + [7], str(at)) for at, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=24), st.integers(60, 400))
def test_every_row_is_read_once_and_never_more_tokens_at_once(lengths: list[int], tokens: int) -> None:
    found = schedule_parallel_packs(apart(lengths), tokens, LANES)
    assert sorted(key for some in found for one in some for key in one.keys) == sorted(map(str, range(len(lengths))))
    assert all(sum(sorted(one.tokens for one in some)[-LANES:]) <= tokens for some in found)


def test_a_step_is_halved_evenly() -> None:
    ((one, other),) = schedule_parallel_packs(apart([50] * 20), 4096, LANES)
    assert one.tokens == other.tokens == 500


def test_packs_that_are_read_at_once_cost_about_the_same_and_the_dear_ones_come_first() -> None:
    chance = random.Random(3)
    ((one, other),) = schedule_parallel_packs(apart([chance.randrange(20, 300) for _ in range(24)]), 16_384, LANES)
    assert other.tokens <= one.tokens < 1.01 * other.tokens


def test_packs_hold_no_more_than_enough_where_that_reads_next_to_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ENOUGH", 200)
    for count in (1, LANES):
        sizes = [one.tokens for some in schedule_parallel_packs(apart([30] * 40), 16_384, count) for one in some]
        assert max(sizes) <= 200 < 2 * min(sizes)
        assert len(sizes) % count == 0
    long_prefix = [row([5] * 150 + [at] * 20, str(at)) for at in range(8)]
    assert len(schedule_parallel_packs(long_prefix, 16_384, 1)) == 1, "the prefix would be computed again for each pack"


@pytest.mark.parametrize("count", [1, LANES])
@pytest.mark.parametrize(("rows", "shared", "own"), [(12, 0, 100), (40, 24, 160), (30, 500, 30), (60, 400, 150)])
def test_the_forecast_knows_how_a_step_is_parted(
    rows: int, shared: int, own: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    step = [row([5] * shared + [at + 10] * own, str(at)) for at in range(rows)]
    found = [one.tokens for some in schedule_parallel_packs(step, 16_384, count) for one in some]
    packs, tokens = plan_parallel_packs(shared + rows * own, shared, 16_384, count)
    side_by_side = count if len(schedule_parallel_packs(step, 16_384, count)[0]) > 1 else 1
    assert packs == len(found)
    assert tokens == pytest.approx(sum(sorted(found)[-side_by_side:]), rel=0.1)


def test_a_lane_takes_the_next_pack_as_it_is_ready() -> None:
    some = [build_pack(apart([at + 10])) for at in range(4)]
    slow, read = threading.Event(), list[int]()

    def work(one: Pack) -> int:
        if one is some[0]:
            assert slow.wait(timeout=60)
        read.append(one.tokens)
        if one is some[3]:
            slow.set()
        return one.tokens

    side_by_side = WorkerThreads(LANES, "test")
    assert list(side_by_side.each(work, some)) == [one.tokens for one in some]
    side_by_side.close()
    assert read[-1] == some[0].tokens, "the other lane read all the rest meanwhile"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (apart([20] * 4), "few tokens: Python takes turns"),
        ([row([5] * 300 + [at] * 40, str(at)) for at in range(8)], "the prefix would be computed twice"),
        (apart([500, 20, 20]), "one lane would wait for the other"),
    ],
)
def test_what_would_not_pay_is_read_as_one(rows: list[TokenRow], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 100)
    assert [len(some) for some in schedule_parallel_packs(rows, 4096, LANES)] == [1], why


def test_a_row_longer_than_half_of_what_fits_stands_alone() -> None:
    found = schedule_parallel_packs(apart([90, 90, 70]), 100, LANES)
    assert [len(some) for some in found] == [1, 1, 1]


@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
def test_the_gradient_is_the_same_side_by_side(
    env: TuneEnv, tmp_path: Path, technique: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TinyTraining(env, tmp_path / "examples", technique, "token")
    read: list[str] = []
    within = pack_gradient.compute_pack_logprobs

    def noted(model: Any, one: Pack, **more: Any) -> torch.Tensor:
        read.append(threading.current_thread().name)
        with Double():  # a thread does not know of the one around it
            return within(model, one, **more)

    monkeypatch.setattr(pack_gradient, "compute_pack_logprobs", noted)
    found = [training.gradient(training.rows, tokens) for tokens in (4096, 400)]
    assert {name.partition("_")[0] for name in read} == {"learning"}
    monkeypatch.setattr(parallel, "LEAST_TOKENS", 1 << 20)
    for one in found:
        same(one, training.gradient(training.rows, 4096))
    assert read[-1] == threading.current_thread().name


def test_no_bit_depends_on_which_is_ready_first(env: TuneEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, chance = TinyTraining(env, tmp_path / "examples", Lora(r=4), "token"), random.Random(1)
    within = pack_gradient.compute_pack_logprobs

    def sometimes_late(model: Any, one: Pack, **more: Any) -> torch.Tensor:
        threading.Event().wait(chance.choice([0.0, 0.02]))
        return within(model, one, **more)

    monkeypatch.setattr(pack_gradient, "compute_pack_logprobs", sometimes_late)
    first, *others = [training.gradient(training.rows, 300) for _ in range(5)]
    for other in others:
        assert other[0] == first[0]
        assert all(torch.equal(value, other[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize(
    "technique",
    [
        Lora(r=4),
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (Qlora(r=4), FullFineTuning(), BottleneckAdapter(), PrefixTuning())
        ),
    ],
    ids=["lora", "qlora", "full", "adapter", "prefix"],
)
def test_a_training_side_by_side_is_resumed_in_the_same_bytes(tmp_path: Path, technique: TechniqueBase) -> None:
    step, env = (
        Tune(**{**TWO, "technique": technique}, dtype="bfloat16", save_steps=1, max_train_samples=24),
        make_env(tmp_path),
    )
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    assert any("side by side" in said for said in env.said("note"))
    env.store.remove(env.tune_digest(step))
    interrupted(env, step, before=2)
    assert {entry.path: entry.digest for entry in env.tune(step).manifest.files} == whole


def test_a_state_of_one_lane_goes_on_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, step = make_env(tmp_path), Tune(**TWO, save_steps=1, max_train_samples=24)
    with monkeypatch.context() as alone:
        alone.setattr("luthier.tune.run.count_cores", lambda: 1)
        whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
        env.store.remove(env.tune_digest(step))
        interrupted(env, step, before=2)
    assert {entry.path: entry.digest for entry in env.tune(step).manifest.files} == whole
    assert torch.get_num_threads() == 1


def test_a_teacher_is_asked_before(env: TuneEnv) -> None:
    step = Tune(**TWO, objective=Distil(), teacher="teacher", dtype="float32")
    losses = [json.loads(line)["loss"] for line in (env.tune(step).folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_what_draws_by_chance_is_read_one_after_another(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    once = Trainer._step

    def noted(self: Trainer, number: int, keeper: Any) -> Any:
        counts.append(self._lanes.count)
        return once(self, number, keeper)

    monkeypatch.setattr(Trainer, "_step", noted)
    for dropout, wanted in ((0.2, 1), (0.0, LANES)):
        env.tune(Tune(**{**TWO, "technique": Lora(r=4, lora_dropout=dropout)}), seed=11)
        assert {*counts} == {wanted}
        counts.clear()


def test_where_two_at_once_do_not_fit_they_are_read_one_after_another(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = pack_gradient.compute_pack_logprobs

    def small(model: Any, one: Pack, **more: Any) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(NO_MEMORY)
        return within(model, one, **more)

    monkeypatch.setattr(pack_gradient, "compute_pack_logprobs", small)
    env.tune(Tune(**TWO), seed=12)
    assert any("one after another, since" in said for said in env.said("note"))


def test_both_run_at_once_on_half_of_the_cores_each(env: TuneEnv) -> None:
    model, both = adapted(env, Lora(r=4)), threading.Barrier(2)

    def work(one: Pack) -> tuple[int, float]:
        both.wait(timeout=60)
        return torch.get_num_threads(), float(compute_pack_logprobs(model, one).detach().sum())

    side_by_side = WorkerThreads(count_parallel_packs(model), "test")
    some = [build_pack(apart([30, 20])), build_pack(apart([40, 10]))]
    found = list(side_by_side.each(work, some))
    side_by_side.close()
    assert [threads for threads, _ in found] == [1, 1]
    assert torch.get_num_threads() == 2
    assert [value for _, value in found] == pytest.approx(
        [float(compute_pack_logprobs(model, one).detach().sum()) for one in some]
    )


def test_what_goes_wrong_in_a_thread_is_raised_when_all_have_ended() -> None:
    begun, ended = threading.Event(), threading.Event()
    some = [build_pack(apart([30])), build_pack(apart([40]))]

    def work(one: Pack) -> None:
        if one is some[0]:
            assert begun.wait(timeout=60)
            raise KeyError("in a thread")
        begun.set()
        ended.wait(0.05)
        ended.set()

    with pytest.raises(KeyError, match="in a thread"):
        list(WorkerThreads(2, "test").each(work, some))
    assert ended.is_set()


def test_one_core_or_another_reading_is_read_as_one(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(env, Lora(r=4))
    assert count_parallel_packs(model) == LANES
    how = detect_forward_mode(model)
    monkeypatch.setattr(
        "luthier.models.packing.parallel.detect_forward_mode",
        lambda model: type(how)(packed=False, why="a state", head=how.head),
    )
    assert count_parallel_packs(model) == 1
    monkeypatch.setattr(
        "luthier.models.packing.parallel.detect_forward_mode",
        lambda model: type(how)(packed=True, why="", head=how.head, turn=512),
    )
    assert count_parallel_packs(model) == 1
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert count_parallel_packs(model) == 1
