"""The ledger, on SQLite and on a real PostgreSQL: runs, migrations, several processes at once, sudden deaths."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.core.db import Ledger, RunStep, ledger_url
from luthier.core.errors import CorruptArtifact, DataError, InputError, LuthierError, SystemResourceError, UnknownName
from luthier.recipe.workspace import Workspace
from tests import ready

WRITER = """
import sys
from luthier.core.db import Ledger, RunStep
with Ledger(sys.argv[1]) as ledger:
    print("open", flush=True)
    for number in range(int(sys.argv[2])):
        run = ledger.start_run("recipe", "d" * 32, sys.argv[3])
        step = RunStep(name="data", kind="prepare", artifact=f"{number:032}", cached=False, seconds=0.5)
        ledger.record_step(run, step)
        ledger.finish_run(run, "done", 0)
    run = ledger.start_run("last", "d" * 32, sys.argv[3])
    print(run, flush=True)
    if sys.argv[4:] == ["stay"]:
        sys.stdin.read()
"""


def writer(url: str, count: int, folder: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, str(count), folder, *more]
    return ready.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def step(name: str = "data", artifact: str = "a" * 32, *, cached: bool = False) -> RunStep:
    return RunStep(name=name, kind="prepare", artifact=artifact, cached=cached, seconds=1.5)


def test_a_run_from_start_to_end(database: str) -> None:
    with Ledger(database) as ledger:
        run = ledger.start_run("support", "d" * 32, "/recipes")
        assert ledger.run(run).state == "running"
        ledger.record_step(run, step())
        ledger.record_step(run, step("tune", "b" * 32, cached=True))
        ledger.finish_run(run, "failed", 2, {"error": {"kind": "DataError", "where": {"line": 3}}})
    with Ledger(database) as ledger:
        found = ledger.run(run)
    assert (found.recipe, found.recipe_digest, found.folder) == ("support", "d" * 32, "/recipes")
    assert (found.state, found.exit_code) == ("failed", 2)
    assert found.error == {"error": {"kind": "DataError", "where": {"line": 3}}}
    assert found.steps == [step(), step("tune", "b" * 32, cached=True)]
    assert found.finished_at is not None
    assert found.started_at.utcoffset() is not None
    assert found.started_at <= found.finished_at


def test_the_latest_run_and_the_runs_that_used_an_artifact(database: str) -> None:
    with Ledger(database) as ledger:
        assert ledger.latest("support", "/recipes") is None
        runs = [ledger.start_run("support", "d" * 32, "/recipes") for _ in range(3)]
        ledger.start_run("support", "d" * 32, "/elsewhere")
        ledger.record_step(runs[0], step())
        ledger.record_step(runs[2], step())
        ledger.record_step(runs[1], step(artifact="b" * 32))
        latest = ledger.latest("support", "/recipes")
        assert latest is not None
        assert latest.id == runs[2]
        assert [run.id for run in ledger.runs_that_used("a" * 32)] == [runs[2], runs[0]]
        assert ledger.runs_that_used("c" * 32) == []
        assert len(ledger.runs(limit=2)) == 2


def test_a_step_told_twice_stands_once(database: str) -> None:
    with Ledger(database) as ledger:
        run = ledger.start_run("support", "d" * 32, "/recipes")
        ledger.record_step(run, step())
        ledger.record_step(run, step(cached=True))
        assert ledger.run(run).steps == [step(cached=True)]


def test_unknown_runs_and_unsayable_errors_are_refused(database: str) -> None:
    with Ledger(database) as ledger:
        for refused in (
            lambda: ledger.run("nothing"),
            lambda: ledger.finish_run("nothing", "done", 0),
            lambda: ledger.record_step("nothing", step()),
        ):
            with pytest.raises(UnknownName, match="nothing"):
                refused()
        run = ledger.start_run("support", "d" * 32, "/recipes")
        with pytest.raises(DataError, match="no JSON"):
            ledger.finish_run(run, "failed", 2, {"error": {1, 2}})
        assert ledger.run(run).state == "running"


def test_a_run_whose_process_died_was_interrupted(database: str) -> None:
    process = writer(database, 0, "/here", "stay")
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    lost = process.stdout.readline().strip()
    with Ledger(database) as ledger:
        mine = ledger.start_run("support", "d" * 32, "/recipes")
        assert ledger.run(lost).state == "running"
        process.kill()
        process.communicate()
        ledger.start_run("support", "d" * 32, "/recipes")
        assert (ledger.run(lost).state, ledger.run(lost).exit_code) == ("interrupted", 130)
        assert ledger.run(mine).state == "running"


def test_several_processes_open_and_write_at_once(database: str) -> None:
    processes = [writer(database, 10, f"/{number}") for number in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    with Ledger(database) as ledger:
        done = [run for run in ledger.runs(limit=1000) if run.recipe == "recipe"]
        assert len(done) == 40
        assert all(run.state == "done" and len(run.steps) == 1 for run in done)
        assert len(ledger.runs_that_used(f"{3:032}")) == 4


def test_a_kill_at_any_moment_leaves_a_ledger_that_opens(tmp_path: Path) -> None:
    url, chance = f"sqlite:///{tmp_path / 'ledger.db'}", random.Random(5)
    for moment in range(10):
        process = writer(url, 100_000, "/killed")
        if moment:  # the first kill meets the migration, or the imports before it
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
    with Ledger(url) as ledger:
        ledger.start_run("after", "d" * 32, "/killed")
        states = [run.state for run in ledger.runs(limit=100_000) if run.recipe == "recipe"]
    assert set(states) <= {"done", "interrupted"}
    assert states.count("interrupted") <= 10
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_models_and_migrations_say_the_same(database: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from luthier.core.db.tables import load_table_metadata

    with Ledger(database) as ledger, ledger._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, load_table_metadata()) == []


def test_migrations_go_up_down_and_up(database: str) -> None:
    from sqlalchemy import inspect

    from luthier.core.db.migrate import current_revision, latest_revision, migrate

    with Ledger(database) as ledger:
        migrate(ledger._engine, "base")
        assert inspect(ledger._engine).get_table_names() == ["alembic_version"]
        migrate(ledger._engine)
        with ledger._engine.connect() as connection:
            assert current_revision(connection) == latest_revision()
        ledger.start_run("support", "d" * 32, "/recipes")


def test_migration_files_are_numbered_without_gap() -> None:
    from luthier.core.db import migrate

    names = sorted(path.name for path in (migrate._HERE / "versions").glob("[0-9]*.py"))
    assert [name.split("_", 1)[0] for name in names] == [f"{number + 1:04}" for number in range(len(names))]


def test_a_ledger_from_the_future_is_refused(database: str) -> None:
    from sqlalchemy import text

    with Ledger(database) as ledger, ledger._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="9999") as caught:
        Ledger(database)
    assert "upgrade" in caught.value.hint


def test_the_state_is_one_of_four(database: str) -> None:
    from sqlalchemy.exc import IntegrityError

    with Ledger(database) as ledger:
        run = ledger.start_run("support", "d" * 32, "/recipes")
        with pytest.raises(IntegrityError):
            ledger.finish_run(run, "odd", 0)  # type: ignore[arg-type]  # what a careless caller might do
        assert ledger.run(run).state == "running"


def test_a_failure_inside_a_transaction_undoes_all_of_it(database: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    with Ledger(database) as ledger:
        run = ledger.start_run("support", "d" * 32, "/recipes")
        with pytest.raises(DBAPIError), ledger.writing() as session:
            [session.execute(text(sentence)) for sentence in ("DELETE FROM runs", "SELECT nonsense")]
        assert ledger.run(run).id == run


def test_importing_the_ledger_is_light() -> None:
    code = "import sys, luthier.core.db; print({'sqlalchemy', 'alembic'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "set()\n"


def test_the_ledger_stands_in_the_store_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workspace.open(tmp_path).ledger_url == f"sqlite:///{tmp_path}/.luthier/ledger.db"
    monkeypatch.setenv("LUTHIER_LEDGER", "postgresql://db/team")
    assert Workspace.open(tmp_path).ledger_url == "postgresql://db/team"


def test_a_path_is_an_sqlite_file(tmp_path: Path) -> None:
    with Ledger(tmp_path / "new" / "my ledger.db") as ledger:
        ledger.start_run("support", "d" * 32, "/recipes")
    assert (tmp_path / "new" / "my ledger.db").is_file()


def refused(url: str) -> LuthierError:
    with pytest.raises(LuthierError) as caught:
        Ledger(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    assert isinstance(refused("secret no url"), InputError)
    assert "mysql" in refused("mysql://user:secret@host/x").message
    (tmp_path / "ledger.db").write_bytes(b"this is a text, and no database" * 100)
    assert isinstance(refused(f"sqlite:///{tmp_path / 'ledger.db'}"), CorruptArtifact)


def test_a_full_or_read_only_disk_is_one_clear_error(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'ledger.db'}"
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    assert isinstance(refused(url), SystemResourceError)
    (small_disk / "ballast").unlink()
    Ledger(url).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SystemResourceError), Ledger(url) as ledger:
        ledger.start_run("support", "d" * 32, "/recipes")


def test_a_postgres_that_is_not_there_or_refuses_says_so(postgres_server: str, tmp_path: Path) -> None:
    assert "cannot be reached" in refused(f"postgresql://user:secret@/x?host={tmp_path}").message
    assert "does not exist" in refused(f"postgresql://postgres:secret@/nowhere?host={postgres_server}").message


def test_without_the_driver_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from luthier.core.errors import MissingExtra\n"
        "from luthier.core.db import Ledger\n"
        "try: Ledger('postgresql://host/x')\n"
        "except MissingExtra as error: print(error.hint)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "pip install 'luthier[postgres]'\n"


def test_a_ledger_on_a_read_only_disk_is_read_and_refuses_to_be_written(small_disk: Path) -> None:
    with Ledger(ledger_url(small_disk)) as ledger:
        run = ledger.start_run("recipe", "d" * 32, str(small_disk))
        ledger.record_step(run, step())
        ledger.finish_run(run, "done", 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Ledger(ledger_url(small_disk)) as ledger:
        assert [one.id for one in ledger.runs_that_used("a" * 32)] == [run]
        with pytest.raises(SystemResourceError, match="read-only"):
            ledger.start_run("recipe", "d" * 32, str(small_disk))
