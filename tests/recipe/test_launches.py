"""Jobs of schedulers in the ledger, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier.core.db import Ledger
from luthier.core.store import Store
from luthier.recipe.launches import describe_open_launches, end_launch, has_open_launch, list_launches, record_launch
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from toy_chain import Numbers, run_chain

RECIPE = "luthier: 1\nname: tickets\nsteps:\n  data: {kind: prepare, source: {kind: csv, path: a.csv}}\n"
JOB = "luthier-0123456789abcdef"


@pytest.fixture
def recipe(tmp_path: Path, database: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return Recipe.load(tmp_path / "recipe.yaml", (), Workspace(tmp_path, None, database))


def submit(recipe: Recipe, store: Store, artifact: str = "a" * 32) -> None:
    with recipe.workspace.open_ledger() as ledger:
        record_launch(ledger, recipe, executor="slurm", job=JOB, store=store, step="data", artifact=artifact)


def test_a_job_from_its_submission_to_its_end(recipe: Recipe) -> None:
    with recipe.workspace.open_ledger() as ledger:
        run = ledger.start_run(recipe.name, "d" * 32, str(recipe.recipe_dir))
        submit(recipe, recipe.workspace.open_store())
        assert has_open_launch(ledger, JOB)
        end_launch(ledger, JOB, "done")
        end_launch(ledger, JOB, "failed")
        assert not has_open_launch(ledger, JOB)
    (found,) = list_launches(recipe.workspace, Path("recipe.yaml"), limit=5)
    assert (found.executor, found.job, found.step, found.artifact) == ("slurm", JOB, "data", "a" * 32)
    assert (found.recipe, found.run, found.state) == ("tickets", run, "done")
    assert found.ended_at is not None
    assert found.submitted_at <= found.ended_at
    assert found.store == recipe.workspace.open_store().location


def test_a_job_that_was_submitted_again_has_failed_before(recipe: Recipe) -> None:
    store = recipe.workspace.open_store()
    submit(recipe, store)
    submit(recipe, store)
    assert [one.state for one in list_launches(recipe.workspace, None, limit=5)] == ["submitted", "failed"]
    assert len(list_launches(recipe.workspace, None, limit=1)) == 1


def test_the_next_run_tells_of_the_jobs_of_a_killed_one(recipe: Recipe, tmp_path: Path) -> None:
    store = recipe.workspace.open_store()
    submit(recipe, store, Numbers().recipe_digest({}, {}, 7))
    with recipe.workspace.open_ledger() as ledger:
        (told,) = describe_open_launches(ledger, recipe, store)
        assert f"the job {JOB} of 'data', handed to slurm at " in told
        assert told.endswith("has no artifact yet; `--on data=slurm` follows it while it lives")
        run_chain(store, tmp_path / "log")
        (told,) = describe_open_launches(ledger, recipe, store)
        assert told.endswith("is done: its artifact is in the store")
        assert list(describe_open_launches(ledger, recipe, store)) == []


def test_the_list_of_runs_shows_them(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.cli.app import app

    monkeypatch.chdir(recipe.recipe_dir)
    monkeypatch.setenv("LUTHIER_LEDGER", str(recipe.workspace.database))
    with Ledger(str(recipe.workspace.database)) as ledger:
        ledger.start_run(recipe.name, "d" * 32, str(recipe.recipe_dir))
    submit(recipe, recipe.workspace.open_store())
    shown = CliRunner().invoke(app, ["runs"]).output
    assert JOB in shown
    assert "submitted (UTC)" in shown
