"""The settings with which a search begins each technique."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.auto.search.initial_trials import suggest_first_trials
from luthier.auto.search.space import SearchSpace
from luthier.core.revision import SourceTree
from luthier.models.describe import ModelDescription, describe_model_folder
from luthier.tune.steps.tune import Tune
from tiny_models import tiny_model

ROOT = Path(__file__).parents[3] / "src" / "luthier"


def build(over: dict[str, Any], model: ModelDescription | None = None, **of: Any) -> SearchSpace:
    tune = Tune.model_validate({"kind": "tune", "data": "data", "model": "model", **of})
    return SearchSpace.build(tune, over, {"tune": tune}, model)


def test_each_technique_begins_as_it_is_advised() -> None:
    over = {
        "technique": ["lora", "ia3", "plain"],
        "learning_rate": "auto",
        "epochs": [1, 2, 4, 8],
        "batch_size": [8, 32],
    }
    space = build(over, learning_rate=5e-4)
    lora, plain, ia3 = suggest_first_trials(space, 200, 5)
    assert (lora["technique"], plain["technique"], ia3["technique"]) == ("lora", "plain", "ia3")
    assert (lora["epochs"], lora["batch_size"]) == (4, 8)
    assert (ia3["epochs"], ia3["batch_size"]) == (4, 8)
    assert "epochs" not in plain
    for settings in (lora, plain, ia3):
        assert not space.refuses(settings)


def test_the_learning_rate_is_that_of_the_technique(tmp_path: Path) -> None:
    model = describe_model_folder(tiny_model(tmp_path))
    space = build({"technique": ["lora", "ia3"], "learning_rate": "auto"}, model, learning_rate=5e-4)
    rates = {one["technique"]: one["learning_rate"] for one in suggest_first_trials(space, 5000, 2)}
    assert rates["lora"] != 5e-4
    assert rates["ia3"] != rates["lora"]


def test_what_is_not_searched_stays_and_what_of_has_is_not_repeated() -> None:
    assert suggest_first_trials(build({"technique.r": [8, 16]}, technique={"kind": "lora", "r": 16}), 200, 5) == ()
    (one,) = suggest_first_trials(build({"epochs": [1, 2]}, technique={"kind": "lora", "r": 16}), 200, 5)
    assert one == {"technique": "lora", "epochs": 2}


@pytest.mark.parametrize(("rows", "classes"), [(1, 0), (1, 1), (10**9, 10**6)])
def test_any_data_are_advised_on(rows: int, classes: int) -> None:
    assert suggest_first_trials(build({}), rows, classes) == suggest_first_trials(build({}), rows, classes)


def test_neither_past_runs_nor_speed_count() -> None:
    tree = SourceTree(ROOT)
    modules = tree.closure(["luthier.auto.search.initial_trials"])
    assert not {one for one in modules if "luthier.data" in one or one.startswith("luthier.models.cost")}
    assert "read_outcomes" not in "".join(tree.text(one) for one in modules)
