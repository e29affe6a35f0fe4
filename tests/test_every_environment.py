"""What every environment promises: one answer or none for each conversation, from it alone, changed by every setting;
and under a policy what it says is read and never learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from documented import undescribed
from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.core.errors import LuthierError
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import build_packs
from luthier.tune.environment import Environment, EnvironmentConversation
from luthier.tune.environments.calculator import calculate
from luthier.tune.reward import RewardContext as Judging
from luthier.tune.rollout.generate import RolloutCompletion, RolloutPrompt
from luthier.tune.rollout.rollout import RolloutBatchSource
from luthier.tune.rollout.sampler import PromptDataset, RolloutSampler
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.schedule import BatchSampler
from policies import Script as Played
from policies import policy_of
from tuning import TuneEnv, chat, examples, make_env

ENVIRONMENTS = components_by_kind(Environment)
KINDS = sorted(ENVIRONMENTS)
FUNCTION = """
def answer(turns, row):
    said = turns[-1]["content"]
    return None if "calc" not in said and "python" not in said else f"{len(turns)} turns, {row['reference']}"

def other(turns, row):
    return "always"
"""
SLOW = "def answer(turns, row):\n    while True: pass\n"
USUAL: dict[str, dict[str, Any]] = {"script": {"lines": ("Are you sure?", "Why?")}, "python": {"path": "tool.py"}}
"""What must be given."""
OTHERWISE: dict[tuple[str, str], dict[str, Any]] = {
    ("calculator", "call"): {"call": r"=(.*)"},
    ("calculator", "digits"): {"digits": 0},
    ("script", "lines"): {"lines": ("No.",)},
    ("script", "column"): {"lines": (), "column": "more"},
    ("python", "path"): {"path": "other.py"},
    ("python", "function"): {"function": "other"},
}
"""Other settings, by the field that they are about, which must change what is said."""
ELSEWHERE = {"kind", "turns", "speaks_as", "longest", "deadline_s"}
"""What every environment has, and the time that a program may take: tests of their own below."""
SAID = ("4", "I need calc(12 * (3 + 4)), I think", "= 7/3", "calc(2 +)", "calc(1/0)", "calc(10/4)", "calc(2**99)",
        "```python\nprint(6 * 7)\n```", "```python\nraise ValueError('no')\n```")  # fmt: skip


def talks() -> list[EnvironmentConversation]:
    row = chat("How much is it?", "84").model_copy(update={"meta": {"more": ["And then?"]}})
    return [EnvironmentConversation(row, (Message(role="assistant", content=said),)) for said in SAID]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tool.py").write_text(FUNCTION)
    (tmp_path / "other.py").write_text(FUNCTION.replace("turns, {row", "of them, {row"))
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def made(kind: str, **fields: Any) -> Environment:
    return ENVIRONMENTS[kind].model_validate({"kind": kind, **USUAL.get(kind, {}), **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    environment = ENVIRONMENTS[kind]
    assert environment.summary()
    assert undescribed(environment) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_conversation_has_an_answer_of_its_own(kind: str, place: Path) -> None:
    environment, given = made(kind), talks()
    found = environment.answer(given, place)
    assert len(found) == len(given)
    assert all(one is None or isinstance(one, str) for one in found)
    assert any(found)
    assert environment.answer(given[::-1], place) == found[::-1]
    assert environment.answer(given[1:2], place) == found[1:2]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in ENVIRONMENTS[kind].model_fields if name not in {*ELSEWHERE, "wall_s"}],
)
def test_every_field_changes_something(kind: str, name: str, place: Path) -> None:
    other = made(kind, **OTHERWISE[kind, name])
    assert made(kind).answer(talks(), place) != other.answer(talks(), place)


def test_the_calculator_calculates_and_says_what_it_cannot(place: Path) -> None:
    assert made("calculator").answer(talks(), place)[:7] == [
        None, "84", None, "error: this cannot be read", "error: division by zero", "2.5",
        "error: only numbers, brackets and + - * / // % are understood",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["__import__('os')", "9" * 400, "(" * 500, "True", "1 if 1 else 2", "a", "1e400", ""])
def test_the_calculator_calculates_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"understood|too large|cannot be read"):
        calculate(text)


def test_code_is_run_and_what_it_printed_is_said(place: Path) -> None:
    assert made("code").answer(talks(), place)[-2:] == ["42", "error: ValueError: no"]


def test_a_function_of_the_users_own_is_told_all_and_runs_locked_in(place: Path) -> None:
    assert made("python").answer(talks(), place)[:2] == [None, "3 turns, 84"]
    (place / "tool.py").write_text("def answer(turns, row):\n    open('/tmp/luthier-was-here', 'w')\n")
    with pytest.raises(LuthierError, match=r"answer failed on example \w+: PermissionError") as caught:
        made("python").answer(talks()[:1], place)
    assert "mend tool.py" in str(caught.value.hint)
    with pytest.raises(LuthierError, match=r"stopped after 0\.5 s"):
        made("python", path="slow.py", wall_s=0.5).answer(talks()[:1], place)
    with pytest.raises(LuthierError, match=r"there is no file gone\.py"):
        made("python", path="gone.py").answer(talks()[:1], place)


def test_a_script_goes_on_until_its_lines_end(place: Path) -> None:
    (first, *_), line = talks(), Message(role="user", content="Are you sure?")
    once = first._replace(turns=(*first.turns, line, Message(role="assistant", content="Yes.")))
    twice = once._replace(turns=(*once.turns, line, line))
    assert made("script").answer([first, once, twice], place) == ["Are you sure?", "Why?", None]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "script"}, "either `lines`"),
        ({"kind": "calculator", "call": "calc"}, "expected a group"),
        ({"kind": "calculator", "call": "("}, "no regular expression"),
        ({"kind": "calculator", "turns": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_say_nothing_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Exception, match=why):
        ENVIRONMENTS[fields["kind"]].model_validate(fields)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


class Told(RolloutSampler):
    """A desk whose model says what it is told to, by turns."""

    lines: tuple[str, ...] = ("I need calc(6 * 7) ```python\nprint(42)\n```", "It is 42.")

    def _write(self, prompts: Any) -> list[RolloutCompletion]:
        found = []
        for prompt in prompts:
            once = self.lines[0] in self.text.decode(prompt.ids)
            ids = [*self.text.tokenizer.encode(self.lines[once], add_special_tokens=False), min(self.text.end_ids)]
            found.append(RolloutCompletion(prompt.ids, ids, [-1.0] * len(ids), ended=True))
        return found


def told(env: TuneEnv, environment: Environment, base: Path) -> Told:
    text = ChatTokenizer.load(env.base.folder)
    return Told(text, 40, Judging(recipe_dir=base, kept=base, models=Path), environment=environment)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_what_the_template_renders_and_the_environment_is_not_learnt(
    kind: str, env: TuneEnv, place: Path
) -> None:
    desk, row = told(env, made(kind, turns=2), place), examples(1)[0]
    prompt = desk.text.prompt(row.messages[:-1])
    (answer,) = desk.answer([RolloutPrompt(prompt, 7, row)])
    assert [turn.role for turn in answer.turns] == ["assistant", "user", "assistant"]
    whole = desk.text.encode([*row.messages[:-1], *answer.turns], learn="all")
    read = [*prompt, *answer.ids]
    assert read == whole.ids[: len(read)]
    mine = [False] * len(prompt) + answer.written
    assert mine == whole.loss_mask[: len(read)]
    assert len(answer.logprobs) == sum(mine)
    assert desk.decode(answer) == answer.turns[-1].content == desk.lines[1]


@pytest.mark.parametrize("objective", ["grpo", "rloo", "reinforce++"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_has_no_part_in_the_loss(kind: str, objective: str, env: TuneEnv, place: Path) -> None:
    desk = told(env, made(kind, turns=2), place)
    desk.model = open_folder(env.base.folder, torch.float64)
    given = examples(2)
    text = ChatTokenizer.load(env.base.folder)
    policy = policy_of(objective, Played.drawn(2, 2), rollout={"environment": made(kind, turns=2).settings()})
    dataset = policy.build_training_examples(given, text)
    asked = PromptDataset(lambda at: list(dataset[at].rows), lambda some: [given[at] for at in some], 2)
    sampler = BatchSampler(seed=0, count=2, epochs=1, batch_size=2)
    worth = iter([1.0, 0.0, 1.0, 0.0])
    desk.judge = lambda rewards, some, answers: _scores([next(worth) for _ in answers])  # type: ignore[method-assign]
    drawn = RolloutBatchSource(policy, desk, asked, sampler, 1 << 14, warn=pytest.fail).draw(0)
    assert drawn.measures["turns"] == 2.0
    for row in drawn.rows:
        assert sum(map(bool, row.loss_weights)) == drawn.measures["length"]
    for pack in build_packs(drawn.rows, 1 << 14):
        loss = policy.loss(compute_pack_logprobs(desk.model, pack), pack, None)
        assert loss.total.isfinite()
        assert pack.sources.shape[0] == drawn.measures["length"] * len(drawn.rows)


def _scores(total: list[float]) -> Any:
    from luthier.tune.rollout.generate import RewardScores

    return RewardScores(total, {"regex": total})


def test_a_tiny_model_learns_to_talk_and_its_reward_reads_the_last_turn(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    rollout = {"num_generations": 8, "max_completion_length": 48, "environment": {"kind": "script", "lines": ["Why?"]}}
    brief = {"kind": "length", "free": 0, "max": 200}
    step = Tune(data="data", objective={"kind": "grpo", "rewards": [brief], "rollout": rollout}, technique=Lora(r=4),
                batch_size=4, max_train_samples=16, epochs=1.0, learning_rate=1e-2, dtype="float32")  # fmt: skip
    lines = [json.loads(line) for line in (env.tune(step).folder / "log.jsonl").read_text().splitlines()]
    assert all(1.0 <= line["turns"] <= 2.0 for line in lines)
    assert any(line["turns"] > 1.0 for line in lines)
    assert all(line["written_apart"] < 1e-5 for line in lines)


SUMS = [(2, 3), (4, 5), (6, 7), (8, 9), (3, 8), (5, 6), (7, 4), (9, 2)]


def talk(key: int, *said: str) -> Example:
    turns = tuple(Message(role="user" if at % 2 == 0 else "assistant", content=one) for at, one in enumerate(said))
    origin = ExampleOrigin(source="csv", file="sums.csv", line=key + 1)
    return Example(id=example_id(turns, None, {}, key), origin=origin, kind="chat", messages=turns)


@pytest.mark.slow
def test_a_tiny_model_learns_to_ask_the_calculator_rather_than_to_guess(tmp_path: Path) -> None:
    """It was shown a call for every two guesses; its reward asks for the right number alone."""
    rows = []
    for at, (a, b) in enumerate(SUMS):
        call = talk(3 * at, f"{a} * {b}?", f"calc({a} * {b})", str(a * b), str(a * b))
        rows += [call, *(talk(3 * at + more, f"{a} * {b}?", str(10 + at)) for more in (1, 2))]
    env = make_env(tmp_path / "shown", rows)
    shown = Tune(data="data", technique=FullFineTuning(), objective={"kind": "sft", "train_on": "all"},
        batch_size=8, epochs=80.0,
                 learning_rate=3e-3, dtype="float32")  # fmt: skip
    start = env.tune(shown)
    asked = make_env(tmp_path / "asked", [talk(at, f"{a} * {b}?", str(a * b)) for at, (a, b) in enumerate(SUMS)])
    rollout = {"num_generations": 8, "max_completion_length": 16, "environment": {"kind": "calculator", "turns": 2}}
    objective = {"kind": "grpo", "rewards": ["numeric"], "rollout": rollout}
    learns = Tune(data="data", technique=Lora(r=8), objective=objective, batch_size=8, epochs=24.0,
                  learning_rate=5e-4, dtype="float32")  # fmt: skip
    made = replace(env, data=asked.data).tune(learns, model=start)
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    for name, by in (("reward", 0.15), ("turns", 0.15)):
        first, last = (sum(line[name] for line in some) / 6 for some in (lines[:6], lines[-6:]))
        assert last > first + by, name


class Broken(Environment):
    """Fails."""

    def answer(self, talks: Any, recipe_dir: Path) -> list[str | None]:
        raise RuntimeError("out of order")


class Short(Environment):
    """Forgets somebody."""

    def answer(self, talks: Any, recipe_dir: Path) -> list[str | None]:
        return []


@pytest.mark.parametrize(("kind", "why"), [(Broken, "RuntimeError: out of order"), (Short, "0 answers in 1 conver")])
def test_an_environment_that_fails_is_named(kind: Any, why: str, env: TuneEnv, place: Path) -> None:
    desk = told(env, kind.model_construct(kind=kind.__name__, turns=2, deadline_s=5.0, longest=9), place)
    row = examples(1)[0]
    with pytest.raises(LuthierError, match=f"the environment {kind.__name__} .*{why}"):
        desk.answer([RolloutPrompt(desk.text.prompt(row.messages[:-1]), 7, row)])


class Slow(Environment):
    """Is done in time with one conversation, and not with several."""

    def answer(self, talks: Any, recipe_dir: Path) -> list[str | None]:
        if len(talks) > 1:
            raise TimeoutError("no end after 60 s")
        return [f"heard {talks[0].example.id}"]


def test_programs_that_hang_in_many_conversations_do_not_end_a_training(env: TuneEnv, place: Path) -> None:
    desk = told(env, Slow.model_construct(kind="slow", turns=2, deadline_s=5.0, longest=99), place)
    rows = examples(4)
    found = desk.answer([RolloutPrompt(desk.text.prompt(row.messages[:-1]), None, row) for row in rows])
    heard = [
        (answer.turns[1].content, row.id) for answer, row in zip(found, rows, strict=True) if answer.environment_spans
    ]
    assert len(heard) > 1
    assert all(said == f"heard {key}" for said, key in heard)


def test_what_is_too_long_is_cut_and_turns_end(env: TuneEnv, place: Path) -> None:
    row = examples(1)[0]
    desk = told(env, made("script", lines=["a" * 50] * 9, turns=4, longest=7), place)
    (answer,) = desk.answer([RolloutPrompt(desk.text.prompt(row.messages[:-1]), None, row)])
    assert [turn.content for turn in answer.turns[1::2]] == ["aaaaaaa"] * 3
    assert len(answer.turns) == 7
