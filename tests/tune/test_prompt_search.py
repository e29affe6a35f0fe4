"""Which prompts are tried, who goes on, and what a search writes for texts, for prompted models and for small data."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.training import TrainingRecord
from luthier.chat.messages import Example, Message
from luthier.chat.prompt import PromptPrefix
from luthier.core.errors import DataError, InputError, LuthierError, ModelError, SourceLocation
from luthier.core.step import ArtifactSpec, PlanContext, StepCostEstimate
from luthier.metrics.kinds.labels import Accuracy
from luthier.metrics.metric import EvalPredictions
from luthier.models.describe import describe_model_folder
from luthier.models.load import load_model
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.distil import Distil
from luthier.tune.prompt_search.candidates import (
    choose_closest_examples,
    combine_candidates,
    draw_balanced_examples,
    example_sets,
    find_shared_instruction,
    list_instructions,
)
from luthier.tune.prompt_search.client import PromptTrialClient
from luthier.tune.prompt_search.successive_halving import count_asked_rows, plan_rounds, run_successive_halving
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.prompt_search import PromptSearch
from models.making import merged
from tuning import SYSTEM, TuneEnv, examples, make_env

SMALL: dict[str, Any] = {"shots": (0, 2), "draws": 1, "held_back": 12, "budget": 80}


def search(**fields: Any) -> Tune:
    return Tune(data="data", technique=PromptSearch.model_validate({**SMALL, **fields}), dtype="float32")


@pytest.mark.parametrize("prompts", [1, 2, 5, 43, 200])
@pytest.mark.parametrize("rows", [2, 15, 16, 150, 300])
@pytest.mark.parametrize("spare", [0, 1, 500, 100_000])
def test_rounds_keep_the_budget_and_end_with_all_rows(prompts: int, rows: int, spare: int) -> None:
    budget = 2 * rows + spare
    plan = plan_rounds(prompts, rows, budget)
    assert count_asked_rows(plan) <= budget
    assert plan[-1].rows == rows
    assert plan[-1].prompts >= min(2, prompts)
    assert all(a.prompts >= b.prompts and a.rows < b.rows for a, b in pairwise(plan))
    if count_asked_rows([type(plan[0])(prompts, rows)]) <= budget:
        assert len(plan) == 1, "with budget for all, nothing is dropped early"


def test_the_race_finds_the_best_and_asks_no_row_twice() -> None:
    quality = [0.5, 0.2, 0.9, 0.4, 0.3, 0.6, 0.1, 0.7]
    asked: Counter[tuple[int, int]] = Counter()

    def answer(place: int, begin: int, end: int) -> EvalPredictions:
        asked.update((place, row) for row in range(begin, end))
        right = [(row * 0.618 + 0.01) % 1 < quality[place] for row in range(begin, end)]
        return EvalPredictions.of(["yes" if one else "no" for one in right], ["yes"] * (end - begin))

    plan = plan_rounds(len(quality), 100, 400)
    standings, answers = run_successive_halving(plan, answer, Accuracy(), [1] * 8, seed=0)
    last = [one for one in standings if one.round == len(plan)]
    assert last[0].prompt_index == 2
    assert last[0].goes_on
    assert {0, 2} <= set(answers), "what the model had stays in"
    assert set(asked.values()) == {1}
    assert sum(asked.values()) == count_asked_rows(plan) <= 400


def test_equal_scores_go_to_the_shorter_prompt() -> None:
    plan = plan_rounds(3, 10, 100)
    standings, _ = run_successive_halving(
        plan, lambda *_: EvalPredictions.of(["a"] * 10, ["a"] * 10), Accuracy(), [9, 5, 7], seed=0
    )
    assert [one.prompt_index for one in standings] == [1, 2, 0]


def test_examples_are_balanced_drawn_by_the_seed_and_near() -> None:
    pool, held = examples()[:36], examples()[36:]
    drawn = draw_balanced_examples(pool, 6, 1, 1)
    assert Counter(one.label for one in drawn) == {"account": 2, "billing": 2, "delivery": 2}
    assert drawn == draw_balanced_examples(pool, 6, 1, 1)
    assert drawn != draw_balanced_examples(pool, 6, 1, 2)
    assert drawn != draw_balanced_examples(pool, 6, 2, 1)
    near = choose_closest_examples(pool, held, 6, 1)
    assert Counter(one.label for one in near) == {"account": 2, "billing": 2, "delivery": 2}
    assert _coverage(near, held) > max(_coverage(draw_balanced_examples(pool, 6, 1, draw), held) for draw in range(5))


def _coverage(shown: tuple[Example, ...], held: list[Example]) -> float:
    """Mean share of a held-back question's words that its nearest example has: not what the search itself maximises."""
    words = [set(one.messages[1].content.lower().split()) for one in (*held, *shown)]
    return sum(max(len(row & one) / len(row) for one in words[len(held) :]) for row in words[: len(held)]) / len(held)


def test_instructions_and_sets_make_every_pair_once() -> None:
    rows = examples()
    told = list_instructions(["Mine."], find_shared_instruction(rows), ["a", "b"], vary=True)
    texts = [one.text for one in told]
    assert texts[:2] == [None, "Mine."]
    assert {f"{SYSTEM}\n\nAnswer with one of: a, b.", "Answer with one of: a, b.", ""} <= set(texts)
    assert [one.text for one in list_instructions(["Mine."], SYSTEM, ["a"], vary=False)] == [None, "Mine."]
    sets = example_sets(rows[:30], rows[30:], (0, 2, 50), draws=2, nearest=True, seed=0)
    assert [shown.how for shown in sets] == ["no examples", "draw 1 of 2", "draw 2 of 2", "the nearest 2"]
    found = combine_candidates(PromptPrefix(), told, sets)
    assert found[0].prompt == PromptPrefix()
    assert len(found) == len(told) * len(sets) == len({one.prompt.digest for one in found})
    assert all(one.prompt.shown[0].role == "user" for one in found if one.examples)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    """A data set of free answers."""
    rows = [
        row.model_copy(update={"label": None, "messages": (*row.messages[:2], _reply(row))}) for row in examples(24)
    ]
    env = make_env(tmp_path_factory.mktemp("texts"), rows)
    path = env.data.folder / "summary.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": "text", "labels": []}))
    return env


def _reply(row: Example) -> Message:
    return Message(role="assistant", content=f"We look at {row.label} at once.")


def test_texts_are_written_and_measured(texts: TuneEnv) -> None:
    short, long = (texts.tune(search(max_new_tokens=count, budget=30)) for count in (2, 12))
    assert short.read_json("training.json")["objective"] == "rougeL"
    assert short.path("search.jsonl").read_bytes() != long.path("search.jsonl").read_bytes()
    exact = texts.tune(search(metric="exact_match", budget=30))
    assert exact.read_json("training.json")["objective"] == "exact_match"
    with pytest.raises(InputError, match="brier needs scores of labels"):
        texts.tune(search(metric="brier"))


def test_a_prompted_model_is_searched_from_what_it_has_and_tuned_with_it(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    first = env.tune(search(instructions=("Which team?",), variations=False, metric="brier"))
    assert PromptPrefix.of(first) != PromptPrefix(), (
        "the tiny model must not be best as it is, or this test says nothing"
    )
    again = env.tune(search(), model=first)
    begun = [json.loads(line) for line in again.path("search.jsonl").read_text().splitlines() if '"as it is"' in line]
    assert {line["instruction"] for line in begun} == {PromptPrefix.of(first).instruction}
    assert PromptPrefix.of(again) != PromptPrefix()
    told = Tune(data="data", max_train_samples=8, batch_size=4, dtype="float32", learning_rate=1e-3)
    plain = env.tune(told)
    prompted = env.tune(told.model_copy(update={"batch_size": 8}), model=first)
    assert PromptPrefix.of(prompted) == PromptPrefix.of(first), (
        "an adapter over a prompted model is asked with the prompt"
    )
    with pytest.raises(ModelError, match="'m0' is a prompt in front of a model"):
        merged(env.store, env.base, [first, plain])
    together = merged(env.store, first, [prompted, env.tune(told, seed=9, model=first)])
    assert PromptPrefix.of(together) == PromptPrefix.of(first), "what is merged over a prompted model keeps its prompt"
    assert load_model(together).model.num_parameters() == load_model(env.base).model.num_parameters()
    rows = [_tokens(one) for one in (plain, prompted)]
    assert rows[0] != rows[1]


def _tokens(made: Any) -> list[int]:
    import polars

    return polars.read_parquet(made.path("training_examples.parquet"))["tokens"].to_list()


def test_a_prompt_under_which_one_label_is_always_said_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always(asker: PromptTrialClient, prompt: PromptPrefix, rows: list[Example]) -> EvalPredictions:
        return EvalPredictions.of(["billing"] * len(rows), asker.references(rows))

    env = make_env(tmp_path)
    monkeypatch.setattr(PromptTrialClient, "answer", always)
    env.tune(search())
    env.tune(search(metric="macro_f1"))
    env.tune(search(metric="macro_f1", normalize="prior"))
    told = [text.partition("answered with ")[2] for text in env.said("warning") if "answered with" in text]
    assert told == [
        "'billing' on every held-back row, whatever is asked; try metric: macro_f1 or normalize: prior",
        "'billing' on every held-back row, whatever is asked; try normalize: prior",
        "'billing' on every held-back row, whatever is asked; try other instructions",
    ]
    chosen = [text for text in env.said("note") if text.startswith("chosen: ")]
    assert [text.partition(";")[0] for text in chosen] == ["chosen: as it is"] * 3


def test_no_more_rows_are_foretold_than_there_are_to_score(tmp_path: Path) -> None:
    env = make_env(tmp_path, examples()[:20])
    outlook = PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=Path())
    small = {"variations": False, "instructions": ("Mine.",), "shots": (0, 2), "draws": 1, "budget": 2000}
    step = search(**small)
    assert step.estimate_cost(outlook).how.startswith("70 scored rows; 20 rows"), "7 prompts of 10 held-back rows"
    assert search(**{**small, "budget": 50}).estimate_cost(outlook).how.startswith("50 scored rows; 20 rows")
    work = env.work(step, 3, None)
    measures = step.make(work)
    asked = TrainingRecord.model_validate_json((work.folder / "training.json").read_bytes()).scored_rows
    assert asked is not None
    assert asked <= 70
    assert measures["scored_rows_per_s"] > asked / measures["search_s"], "reading the model is no row's time"


def test_prompts_that_a_budget_leaves_out_are_counted_with_what_would_try_them(tmp_path: Path) -> None:
    env = make_env(tmp_path, examples()[:40])
    settings = {
        "instructions": tuple(f"Sort it, {word}." for word in "abcd"),
        "held_back": 20,
        "shots": (0,),
        "draws": 2,
    }
    made = env.tune(search(**settings, budget=100))
    (said,) = [text for text in env.said("warning") if "not tried" in text]
    found = re.fullmatch(r"(\d+) of (\d+) prompts, .* the budget is 100 rows, and (\d+) would try all", said)
    assert found is not None
    left, every, enough = map(int, found.groups())
    assert made.read_json("training.json")["prompts"] == every - left
    env.heard.clear()
    whole = env.tune(search(**settings, budget=enough))
    assert whole.read_json("training.json")["prompts"] == every
    assert not [text for text in env.said("warning") if "not tried" in text]


def test_more_examples_than_there_are_rows_to_show_are_refused(tmp_path: Path) -> None:
    env = make_env(tmp_path, examples()[:14])
    outlook = PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=Path())
    step = search(shots=(0, 4, 8, 64))
    for refused in (lambda: step.estimate_cost(outlook), lambda: env.tune(step)):
        with pytest.raises(InputError, match="7 rows are held back, which leaves 7 to show, got 8, 64") as caught:
            refused()
        assert caught.value.where == SourceLocation(field="technique.shots")
    usual = search(shots=(0, 4, 8))
    foretold = usual.estimate_cost(outlook)
    assert foretold.how.startswith("80 scored rows"), "the default tries what can be shown"
    env.tune(usual)
    assert "there are too few rows to show [8] examples" in env.said("warning")


def test_the_pace_of_a_search_is_that_of_a_model_of_about_the_size(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    step, size = search(), describe_model_folder(env.base.folder).parameters
    outlook = PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=Path())

    def told(*paces: dict[str, float]) -> StepCostEstimate:
        history = {"measures": paces[0]}
        return step.estimate_cost(replace(outlook, history=history, paces=paces[1:]))

    near, far = [{"scored_rows_per_s": 8.0, "parameters": times * size} for times in (2, 100)]
    assert told(near).seconds == 10 + 80 / 16
    assert "at 16.0 a second, as in the last search" in told(near).how
    assert "matrix products" in told(far).how
    assert "matrix products" in told({"scored_rows_per_s": 8.0}).how
    assert told(far, near).seconds == told(near).seconds, "of those before, the newest that fits"
    assert step.make(env.work(step, 3, None))["parameters"] == size


@pytest.mark.parametrize(
    ("outline", "fields", "field"),
    [
        (ArtifactSpec(headed=True), {}, "model"),
        (ArtifactSpec(remote=True), {"normalize": "prior"}, "technique.normalize"),
    ],
)
def test_what_a_model_cannot_be_asked_is_refused_before_it_is_made(
    outline: ArtifactSpec, fields: dict[str, Any], field: str
) -> None:
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=Path(), outlines={"model": outline})
    with pytest.raises(LuthierError) as caught:
        search(**fields).estimate_cost(outlook)
    assert caught.value.where.field == field


def test_a_model_that_names_classes_by_a_head_is_refused(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    head = Tune(data="data", objective=Classify(head="sequence"), max_train_samples=16, batch_size=4, dtype="float32")
    with pytest.raises(ModelError, match="names classes by a head of its own"):
        env.tune(search(), model=env.tune(head))


@pytest.mark.parametrize("field", ["model", "teacher"])
def test_weights_of_an_endpoint_are_refused_before_it_is_made(field: str) -> None:
    step = Tune(data="data", teacher="far", objective=Distil())
    outlook = PlanContext(inputs={}, upstream={}, recipe_dir=Path(), outlines={field: ArtifactSpec(remote=True)})
    with pytest.raises(ModelError, match=f"the {field} is an endpoint: its weights are not here"):
        step.estimate_cost(outlook)


def test_too_few_rows_and_prompts_that_do_not_fit_are_said(tmp_path: Path) -> None:
    env = make_env(tmp_path, examples()[:3])
    with pytest.raises(DataError, match="3 training rows have an answer"):
        env.tune(search())
    long = make_env(tmp_path / "long")
    made = long.tune(search(instructions=("word " * 600,), variations=False, shots=(0,), draws=2))
    assert any("not tried: instruction 1 of the recipe" in text for text in long.said("warning"))
    assert made.read_json("training.json")["prompts"] == 1
    assert math.isclose(made.read_json("training.json")["scored_rows"], 12)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"budget": 20, "held_back": 12}, "budget 20 does not ask two prompts 12 rows; 24 does"),
        ({"metric": "perplexity"}, "perplexity measures likelihood"),
        ({"shots": ()}, "at least 1"),
        ({"shots": (0,), "draws": 2, "variations": False}, "leave one prompt, the one that is there"),
        ({"shots": (0,), "draws": 3}, r"draws changes nothing where shots \[0\] show no examples"),
        ({"shots": (0,), "draws": 2, "nearest": False}, "nearest changes nothing"),
        ({"shots": (0, 4, 4)}, "4 stands there twice"),
        ({"instructions": ("Mine.", " \n")}, "instruction 2 of 2 is blank; leave it out"),
        ({"instructions": ("Mine.", "Yours.", "Mine.")}, "instruction 3 is instruction 1 again"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        search(**fields)
