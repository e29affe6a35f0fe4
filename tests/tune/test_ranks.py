"""Parts of a step, and the ranks that compute them: however many there are, and whichever is lost, the bytes stay."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.component import component_of_kind, components_by_kind
from luthier.core.errors import InputError, RecipeError
from luthier.models.packing.pack import TokenRow
from luthier.tune.optimizer import Optimizer
from luthier.tune.steps.tune import Tune
from luthier.tune.training import ranks
from luthier.tune.training.group import RankLost
from luthier.tune.training.mixed_precision import GradientSum, MixedPrecisionOptimizer, OptimizerSettings
from luthier.tune.training.parts import assign_spans, assign_weights, choose_parts, deal_rows, sum_tree
from luthier.tune.training.ranks import LocalRanks, PartLeader, check_agreement
from luthier.tune.training.shared_memory import Mailbox, MailboxLost
from luthier.tune.training.trainer import Trainer
from tuning import TuneEnv, examples, interrupted, make_env


def row(ids: list[int], key: str, group_size: int = 1) -> TokenRow:
    return TokenRow(ids, [0.0] * (len(ids) - 1) + [1.0], key, group_size)


def drawn_rows(count: int, prefix: int = 0, seed: int = 0) -> list[TokenRow]:
    chance = random.Random(seed)
    begin = [1] * prefix
    return [
        row([*begin, *(chance.randrange(3, 400) for _ in range(chance.randint(20, 90)))], str(at))
        for at in range(count)
    ]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_rows_are_dealt_by_their_contents_and_none_is_lost(parts: int) -> None:
    rows = drawn_rows(13)
    deals = deal_rows(rows, parts)
    assert len(deals) == parts
    assert sorted(one.key for some in deals for one in some) == sorted(one.key for one in rows)
    sizes = [sum(len(one.ids) for one in some) for some in deals]
    assert max(sizes) <= 1.6 * sum(sizes) / parts


def test_parts_without_rows_are_empty_and_examples_stay_whole() -> None:
    rows = [row([5, 6, 7], "a", 2), row([5, 6, 8], "a", 2), row([9, 9, 9], "b")]
    deals = deal_rows(rows, 4)
    assert sorted(len(some) for some in deals) == [0, 0, 1, 2]


def test_auto_takes_more_parts_the_less_rows_share() -> None:
    apart, alike = drawn_rows(32), drawn_rows(32, prefix=400)
    assert choose_parts([apart]) == 4, "256 tokens for each part at least"
    assert choose_parts([apart * 1, apart]) == choose_parts([apart])
    assert choose_parts([alike]) == 1


@pytest.mark.parametrize("parts", range(1, 10))
def test_spans_are_branches_of_the_tree(parts: int) -> None:
    leaves = [f"{part}" for part in range(parts)]

    def add(one: str, other: str) -> str:
        return f"({one}{other})"

    singles = [range(part, part + 1) for part in range(parts)]
    alone = sum_tree(range(parts), singles, lambda one: leaves[one.start], add)
    for count in range(1, parts + 1):
        spans = assign_spans(parts, count)
        assert [part for span in spans for part in span] == list(range(parts))
        own = {span: sum_tree(span, singles, lambda one: leaves[one.start], add) for span in spans}
        assert sum_tree(range(parts), spans, own.get, add) == alone
    with pytest.raises(ValueError, match="cannot be dealt"):
        assign_spans(parts, parts + 1)


def test_a_part_without_rows_adds_nothing() -> None:
    values = {range(1): None, range(1, 2): 2.0, range(2, 3): None}
    assert sum_tree(range(3), list(values), values.get, lambda one, other: one + other) == 2.0


def test_a_sum_has_a_vector_for_each_dtype() -> None:
    weights = [torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64), torch.zeros(5)]
    total, other = GradientSum(weights), GradientSum(weights)
    total.gather([torch.ones(2, 3, dtype=torch.bfloat16), None, torch.full((5,), 2.0)])
    other.gather([None, torch.ones(4, dtype=torch.float64), None])
    total.add(other)
    assert total.flat[torch.float32].tolist() == [1.0] * 6 + [2.0] * 5
    assert total.views[1].tolist() == [1.0] * 4


@pytest.mark.parametrize("ranks", range(1, 6))
def test_each_weight_has_one_owner_and_owners_have_about_equal_shares(ranks: int) -> None:
    sizes = [random.Random(seed).randint(1, 100) for seed in range(60)]
    owned = assign_weights(sizes, ranks)
    assert [at for some in owned for at in some] == list(range(60))
    assert max(sum(sizes[at] for at in some) for some in owned) <= sum(sizes) / ranks + max(sizes)
    assert [at for some in assign_weights([5], ranks) for at in some] == [0], "some ranks own nothing"


@pytest.mark.parametrize("kind", sorted(components_by_kind(Optimizer)))
def test_what_is_held_moves_as_if_all_were(kind: str) -> None:
    """Masters of the rest are let go, with what is remembered of them, and come back from a state."""
    settings = OptimizerSettings(optimizer=component_of_kind(Optimizer, kind)(), clip=1.0)

    def build() -> MixedPrecisionOptimizer:
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(70, 70) for _ in range(3))).bfloat16()
        return MixedPrecisionOptimizer(model, settings)

    def move(updater: MixedPrecisionOptimizer, step: int) -> None:
        chance = torch.Generator().manual_seed(step)
        updater.gather([torch.randn(value.shape, generator=chance) for value in updater.parameters.values()])
        updater.update(1e-2, updater.norm())

    whole, part = build(), build()
    for step in range(2):
        move(whole, step)
    part.restore(whole.state())
    held = list(part.sizes)[2:4]
    part.hold(held)
    move(whole, 2)
    move(part, 2)
    own, all_states = part.state(), whole.state()
    assert len(own) < len(all_states)
    assert all(torch.equal(value, all_states[name]) for name, value in own.items())
    assert sum(value.nbytes for name, value in own.items() if "/" in name) < 0.5 * sum(
        value.nbytes for value in all_states.values()
    )
    part.hold(list(part.sizes))
    part.restore(all_states)
    move(whole, 3)
    move(part, 3)
    assert all(torch.equal(value, part.state()[name]) for name, value in whole.state().items())


def test_a_mailbox_carries_tensors_and_tells_who_left() -> None:
    one, other = Mailbox(0, 2), Mailbox(1, 2)
    one.open(1, other.address)
    other.open(0, one.address)
    for size in (10, 5, 100_000):
        found = torch.empty(size)
        one.send({1: torch.arange(size, dtype=torch.float32)}, 1.0)
        other.receive(0, found, 1.0)
        assert torch.equal(found, torch.arange(size, dtype=torch.float32))
    one.send({1: torch.ones(3)}, 1.0)
    with pytest.raises(MailboxLost, match="1"):
        one.send({1: torch.ones(3)}, 0.1)
    other.close()
    with pytest.raises(MailboxLost, match="1"):
        one.send({1: torch.ones(3)}, 60.0)
    one.close()


def step_of(**fields: Any) -> Tune:
    usual = {"data": "data", "technique": {"kind": "lora", "r": 4}, "batch_size": 8, "learning_rate": 1e-3,
             "dtype": "float32", "parts": 4}  # fmt: skip
    return Tune.model_validate({**usual, **fields})


def files(env: TuneEnv, step: Tune) -> dict[str, bytes]:
    """What a training writes, made anew."""
    if env.tune_digest(step) in set(env.store.digests()):
        env.store.remove(env.tune_digest(step))
    env.heard.clear()
    made = env.tune(step)
    return {entry.path: (made.folder / entry.path).read_bytes() for entry in made.manifest.files}


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path, examples(24))


def test_one_part_has_the_name_of_a_training_without_the_setting() -> None:
    assert "parts" not in step_of(parts=1).hashed_settings()
    assert step_of(parts=2).hashed_settings()["parts"] == 2
    assert "processes" not in step_of(processes=2).hashed_settings()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"parts": 2, "processes": 3}, "3 processes have 2 parts"),
        ({"parts": 1, "processes": 2}, "2 processes have 1 part of"),
        (
            {"parts": "auto", "objective": {"kind": "grpo", "rewards": [{"kind": "regex", "pattern": "e"}]}},
            "writes its rows on the way",
        ),
        ({"technique": {"kind": "plain"}, "parts": 2}, "changes nothing under plain"),
    ],
)
def test_what_cannot_be_split_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        step_of(**settings)


def test_more_processes_than_parts_of_the_data_are_refused(env: TuneEnv) -> None:
    with pytest.raises(RecipeError, match="4 processes have 1 part"):
        env.tune(step_of(parts="auto", processes=4))


def test_parts_side_by_side_are_the_parts_one_by_one(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = files(env, step_of(validation={"rows": 4, "every": 2}))
    before = torch.get_num_threads()
    monkeypatch.setattr("luthier.tune.run.count_cores", lambda: 2)
    together = files(env, step_of(validation={"rows": 4, "every": 2}))
    torch.set_num_threads(before)
    assert alone == together


def test_ranks_that_differ_are_refused_by_name() -> None:
    own = {"kernels": "a", "attention paths": {"one": "blocks", "two": "fused"}}
    check_agreement(own, {"kernels": "a", "attention paths": {"one": "blocks", "three": "plain"}}, 1)
    with pytest.raises(InputError, match="rank 1 differs from rank 0 in kernels: 'b' there, 'a' here"):
        check_agreement(own, {**own, "kernels": "b"}, 1)
    with pytest.raises(InputError, match="attention paths"):
        check_agreement(own, {**own, "attention paths": {"one": "fused"}}, 2)


def test_two_processes_write_the_bytes_of_one(env: TuneEnv) -> None:
    step = step_of(validation={"rows": 4, "every": 2}, ema=0.9)
    assert files(env, step) == files(env, step.model_copy(update={"processes": 2}))


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_another_number_of_processes_goes_on(env: TuneEnv, before: int) -> None:
    """A state is the same whoever computed it: one process begins and three end, or the other way round."""
    steps = [step_of(save_steps=1, epochs=2.0, processes=count) for count in (1, 3)]
    whole = files(env, steps[0])
    env.store.remove(env.tune_digest(steps[0]))
    first, second = steps if before == 1 else reversed(steps)
    begin = env.tune_digest
    env.tune_digest = lambda step, seed=3: begin(step.model_copy(update={"processes": 1}), seed)  # type: ignore[method-assign]
    interrupted(env, first)
    made = env.tune(second)
    assert {entry.path: (made.folder / entry.path).read_bytes() for entry in made.manifest.files} == whole


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_is_lost_and_others_go_on(env: TuneEnv, monkeypatch: pytest.MonkeyPatch, how: signal.Signals) -> None:
    """Killed or frozen in the middle of a training, a rank leaves its parts to the others."""
    monkeypatch.setattr(ranks, "SILENT_S", 5.0)
    step = step_of(validation={"rows": 4, "every": 2}, epochs=2.0)
    whole = files(env, step)
    hosts: list[LocalRanks] = []
    meet, once = LocalRanks.connect, Trainer._step

    def noted(self: LocalRanks) -> None:
        hosts.append(self)
        meet(self)

    def losing(self: Trainer, number: int, keeper: Any) -> Any:
        if number == 2:
            victim = hosts[0]._children[2]
            threading.Timer(0.05, os.kill, (victim.pid, how)).start()
        return once(self, number, keeper)

    monkeypatch.setattr(LocalRanks, "connect", noted)
    monkeypatch.setattr(Trainer, "_step", losing)
    assert files(env, step.model_copy(update={"processes": 3})) == whole
    assert any("go on, and compute the step anew" in text for text in env.said("warning"))
    assert hosts[0].group.size == 2


@pytest.mark.slow
@pytest.mark.parametrize("lost", [(2,), (1, 2)], ids=["one", "with-its-copy"])
def test_moments_of_a_lost_rank_come_from_its_copy(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...]
) -> None:
    """Ranks are killed between an update and the exchange of the weights that moved; where a rank and the one that
    keeps its copy are gone, the training goes on from its newest checkpoint."""
    step = step_of(technique={"kind": "full"}, optimizer={"kind": "muon"}, dtype="bfloat16", save_steps=1, ema=0.9)
    whole = files(env, step)
    hosts: list[LocalRanks] = []
    meet, share = LocalRanks.connect, ranks.share_weights
    shared: list[int] = []

    def noted(self: LocalRanks) -> None:
        hosts.append(self)
        meet(self)

    def losing(*args: Any) -> None:
        shared.append(1)
        if len(shared) == 2:
            for number in lost:
                child = hosts[0]._children[number]
                child.kill()
                child.wait()
        share(*args)

    monkeypatch.setattr(LocalRanks, "connect", noted)
    monkeypatch.setattr(ranks, "share_weights", losing)
    begin = env.tune_digest
    env.tune_digest = lambda step, seed=3: begin(step.model_copy(update={"processes": 1}), seed)  # type: ignore[method-assign]
    together = step.model_copy(update={"processes": 4})
    if len(lost) == 1:
        assert files(env, together) == whole
        assert hosts[0].group.size == 3
        return
    with pytest.raises(RankLost, match="copy of its weights, are gone"):
        files(env, together)
    made = env.tune(together)
    assert {entry.path: (made.folder / entry.path).read_bytes() for entry in made.manifest.files} == whole
    assert len(shared) == 4, "it goes on after the first step"


@pytest.mark.slow
def test_bytes_a_step_are_those_of_the_bound(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks send half of the gradient each, twice."""
    from luthier.tune.training.group import TorchRankGroup

    sent: list[int] = []
    exchange = TorchRankGroup.exchange

    def counting(self: TorchRankGroup, outgoing: Any, incoming: Any, wait_s: float = 1e5) -> None:
        sent.extend(value.nbytes for value in outgoing.values() if value.dtype == torch.float32)
        exchange(self, outgoing, incoming, wait_s)

    size: list[int] = []
    gather = PartLeader._gather

    def measured(self: PartLeader, *args: Any) -> Any:
        size.append(4 * self._updater.numbers)
        return gather(self, *args)

    monkeypatch.setattr(TorchRankGroup, "exchange", counting)
    monkeypatch.setattr(PartLeader, "_gather", measured)
    found = files(env, step_of(processes=2))
    assert len(found["log.jsonl"].splitlines()) == len(size)
    assert sum(sent) == pytest.approx(sum(size), rel=1e-3)
    assert json.loads(found["log.jsonl"].splitlines()[0])["computed"] > 0
