"""`luthier new --from` a database: which table, which columns, and a recipe that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests.data.test_sql import execute, fill, read, refused, source, values


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_recipe_for_the_only_table_runs(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, 90)
    assert run_command(["new", "mine", "--from", database]) == 0
    text = (tmp_path / "mine" / "recipe.yaml").read_text()
    assert "kind: sql" in text
    assert "table: tickets" in text
    recipe = Recipe.load(tmp_path / "mine")
    source = recipe.steps["data"].model_dump()["source"]
    assert (source["prompt"], source["answer"], source["group"]) == ("message", "category", "customer")
    assert source["id"] == "id"
    assert "invoice" not in capsys.readouterr().out
    data = Recipe.of(_only_data(recipe, tmp_path), Workspace.open(tmp_path / "mine")).run()["data"]
    assert json.loads((data.artifact.folder / "summary.json").read_text())["rows_in"] == 90


def _only_data(recipe: Recipe, base: Path) -> object:
    from luthier.recipe.yaml import parse_yaml

    return parse_yaml(json.dumps({"steps": {"data": recipe.model_dump(mode="json")["steps"]["data"]}}), str(base))


def test_the_file_of_an_sqlite_database_is_found_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    fill(f"sqlite:///{tmp_path}/in/t.db", 90)
    assert run_command(["new", "mine", "--from", "sqlite:///in/t.db", "--table", "tickets"]) == 0
    assert 'url: "sqlite:///../in/t.db"' in (tmp_path / "mine" / "recipe.yaml").read_text()
    Recipe.load(tmp_path / "mine", ["steps.data.ops=[]"]).steps["data"]


def test_a_file_of_sqlite_is_recognised_by_its_content(tmp_path: Path) -> None:
    fill(f"sqlite:///{tmp_path}/shop.txt", 90)
    assert run_command(["new", "mine", "--from", "shop.txt"]) == 0
    assert 'url: "sqlite:///../shop.txt"' in (tmp_path / "mine" / "recipe.yaml").read_text()
    assert run_command(["new", "other", "--from", str(tmp_path / "shop.txt"), "--table", "tickets"]) == 0
    Path("text.db").write_text("no database")
    assert run_command(["new", "none", "--from", "text.db", "--table", "tickets"]) == 2


def test_several_tables_are_a_question_that_lists_them(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database)
    execute(database, "CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT)")
    assert run_command(["new", "mine", "--from", database]) == 2
    said = capsys.readouterr().err
    assert "which of its 2 tables?" in said
    assert "agents, tickets" in said
    assert run_command(["new", "mine", "--from", database, "--table", "tickts"]) == 2
    assert "did you mean 'tickets'?" in capsys.readouterr().err
    assert not Path("mine").exists()


def test_a_password_in_the_url_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["new", "mine", "--from", "postgresql://me:hunter2@db/x"]) == 2
    said = capsys.readouterr()
    assert "holds a secret in clear" in said.err
    assert "hunter2" not in said.err + said.out


def test_a_variable_stays_a_variable(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database, 90)
    monkeypatch.setenv("TICKETS_DB", database)
    assert run_command(["new", "mine", "--from", "$TICKETS_DB"]) == 0
    text = (tmp_path / "mine" / "recipe.yaml").read_text()
    assert "$TICKETS_DB" in text
    assert database not in text + capsys.readouterr().out


def test_a_table_without_rows_or_tables_is_said(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(database, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    execute(database, "DROP TABLE t")
    assert run_command(["new", "mine", "--from", database]) == 2
    assert "has no tables" in capsys.readouterr().err
    execute(database, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    assert run_command(["new", "mine", "--from", database]) == 2
    assert "has no rows" in capsys.readouterr().err


def test_table_without_a_database_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["new", "mine", "--from", "tickets.csv", "--table", "t"]) == 2
    assert "belongs to a database" in capsys.readouterr().err


def test_a_unique_index_orders_a_table_without_a_primary_key(database: str) -> None:
    rows = fill(database)
    execute(database, "CREATE TABLE t AS SELECT * FROM tickets", "CREATE UNIQUE INDEX one ON t (message) WHERE id > 5")
    assert "has no key" in refused(source(database, table="t")).message
    execute(database, "CREATE UNIQUE INDEX two ON t (id)")
    assert values(read(source(database, table="t"))) == rows


def test_a_view_is_read_in_the_order_of_a_column_that_names_its_rows(database: str, tmp_path: Path) -> None:
    fill(database, 90)
    execute(database, "CREATE VIEW open_tickets AS SELECT category, id, message FROM tickets")
    execute(database, "CREATE VIEW no_order AS SELECT category, message, 7 AS shop_id FROM tickets")
    assert run_command(["new", "mine", "--from", database, "--table", "open_tickets"]) == 0
    text = (tmp_path / "mine" / "recipe.yaml").read_text()
    assert "# it has no key; these values all differ, so they order the rows\n      cursor: id" in text
    data = Recipe.of(_only_data(Recipe.load(tmp_path / "mine"), tmp_path), Workspace.open(tmp_path / "mine")).run()[
        "data"
    ]
    assert json.loads((data.artifact.folder / "summary.json").read_text())["rows_in"] == 90
    assert run_command(["new", "none", "--from", database, "--table", "no_order"]) == 2
