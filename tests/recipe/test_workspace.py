"""Which folder a command means where several recipes stand nearby."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.commands.release import released_digests
from luthier.core.errors import RecipeError, UnknownName
from luthier.core.store import Store
from luthier.recipe.workspace import (
    create_api_key,
    find_alias_folder,
    find_digest,
    find_workspace_folder,
    list_api_keys,
    open_folder_ledger,
    open_workspace_store,
)
from luthier.traces.releases import ReleasedModel, release

DIGEST = "ab" * 16


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a person works, with nothing in it yet."""
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER", "LUTHIER_TRAFFIC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(folder: str) -> Path:
    """A recipe as `new` places it."""
    Path(folder).mkdir(parents=True)
    Path(folder, "recipe.yaml").write_text(f"luthier: 1\nname: {Path(folder).name}\nsteps: {{}}\n")
    return Path(folder)


def served(folder: Path) -> None:
    """What serving leaves in a folder."""
    (folder / ".luthier" / "traffic").mkdir(parents=True)


def test_without_a_recipe_it_is_this_folder_and_with_one_it_is_the_recipes() -> None:
    assert find_workspace_folder() == Path()
    only = recipe("support")
    assert find_workspace_folder() == only
    assert find_workspace_folder(["smollm2-135m-instruct", "support@prod"]) == only


def test_a_recipe_in_the_words_decides() -> None:
    recipe("support")
    other = recipe("recipes/other")
    for word in ("recipes/other:tune", "recipes/other/recipe.yaml", "recipes/other/recipe.yaml:tune"):
        assert find_workspace_folder([word, "smollm2-135m-instruct"]) == other
    assert find_workspace_folder(["support:tune", "recipes/other:tune"]) == Path()
    assert find_workspace_folder(["nothing:tune"]) == Path()


def test_a_folder_that_is_served_from_is_meant_when_a_recipe_comes_to_stand_beside_it() -> None:
    first = recipe("support")
    served(first)
    recipe("better")
    assert find_workspace_folder() == first
    assert find_workspace_folder(["support:tune", "better:tune"]) == first
    served(Path())
    assert find_workspace_folder() == Path()


def test_a_key_that_was_made_is_found_when_a_recipe_comes_to_stand_beside_it() -> None:
    first = recipe("support")
    create_api_key("bot", ["infer"], None)
    recipe("better")
    assert find_workspace_folder() == first
    assert [key["name"] for key in list_api_keys()] == ["bot"]


def test_where_two_are_served_from_a_person_is_asked_which() -> None:
    for name in ("better", "support"):
        served(recipe(name))
    with pytest.raises(RecipeError) as error:
        find_workspace_folder()
    assert "models are served from 2 folders here: better, support" in str(error.value)
    assert find_workspace_folder(["better:tune"]) == Path("better")


def test_a_name_stays_in_the_ledger_that_knows_it() -> None:
    first, second = recipe("support"), recipe("better")
    with open_folder_ledger(first) as ledger:
        release(ledger, "support@prod", ReleasedModel(word="support:tune", model=DIGEST, digest=DIGEST))
    assert find_alias_folder("support@prod", ["better:tune"]) == first
    assert find_alias_folder("better@prod", ["better:tune"]) == second


def test_no_store_loses_what_a_name_means_in_the_folder_above(house: Path) -> None:
    first = recipe("support")
    open_workspace_store(["support:tune"])
    with open_folder_ledger(house) as ledger:
        release(ledger, "support@prod", ReleasedModel(word="support:tune", model=DIGEST, digest=DIGEST))
    assert released_digests() == {DIGEST}
    os.chdir(first)
    assert released_digests() == {DIGEST}


def test_an_artifact_is_found_in_any_store_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    served(recipe("support"))
    served(recipe("better"))
    found: list[str] = []

    def find(store: Store, beginning: str) -> str:
        found.append(store.location)
        if "better" in store.location:
            raise UnknownName(f"no artifact {beginning}")
        return beginning

    monkeypatch.setattr(Store, "find", find)
    assert find_digest(DIGEST) == DIGEST  # type: ignore[comparison-overlap]  # a store that answers with the digest
    assert [Path(place).parent.name for place in found] == ["better", "support"]


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["plan"], "name one, such as a/recipe.yaml"),
        (["show", ":tune"], "name one, such as a/recipe.yaml:tune"),
        (["chat"], "name one, such as a/recipe.yaml:STEP"),
    ],
)
def test_where_several_recipes_stand_it_is_said_how_one_is_named(
    command: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe("a")
    recipe("b")
    assert run_command(command) == 2
    assert capsys.readouterr().err.rstrip().endswith(remedy)


def test_without_a_recipe_chat_asks_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chat"]) == 2
    assert "name a model" in capsys.readouterr().err
