"""The source `sql`, on SQLite and on a real PostgreSQL: order, purity, fingerprints, dropped connections, secrets."""

from __future__ import annotations

import os
import sqlite3
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Connection, create_engine, text

from luthier.core.errors import DataError, InputError, LuthierError, MissingExtra, RecipeError
from luthier.data.database import reading, selection
from luthier.data.database.selection import RowSelection
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.sources.sql import Sql
from luthier.recipe.schema import Recipe
from tests import ready
from tests.data.conftest import Maker
from tests.tiny_models import tickets

HERE = Path()
Found = SourceRecord | BrokenRow


def execute(url: str, *statements: str, rows: Sequence[dict[str, Any]] = ()) -> list[Any]:
    """Run statements in one transaction, the last once for each row; returns what the last one gave."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements[:-1]:
            connection.execute(text(statement))
        result = connection.execute(text(statements[-1]), list(rows) or None)
        found = list(result.all()) if result.returns_rows else []
    engine.dispose()
    return found


def fill(url: str, count: int = 60) -> list[dict[str, Any]]:
    """A table `tickets` with keys 10, 20, …, written in another order."""
    rows = [{"id": 10 * (n + 1), **row} for n, row in enumerate(tickets(count))]
    make = "CREATE TABLE tickets (id INTEGER PRIMARY KEY, message TEXT, category TEXT, customer TEXT)"
    put = "INSERT INTO tickets VALUES (:id, :message, :category, :customer)"
    execute(url, make, put, rows=rows[::-1])
    return rows


def source(url: str, **settings: Any) -> Sql:
    if not {"table", "query"} & set(settings):
        settings["table"] = "tickets"
    return Sql(url=url, **settings)


def read(one: Sql, say: Callable[[str], None] = lambda text: None) -> list[Found]:
    return list(one.records(HERE, say))


def values(found: Sequence[Found]) -> list[dict[str, Any]]:
    assert all(isinstance(each, SourceRecord) for each in found)
    return [each.values for each in found if isinstance(each, SourceRecord)]


def refused(one: Sql) -> LuthierError:
    with pytest.raises(LuthierError) as caught:
        read(one)
    return caught.value


# order


def test_a_table_comes_in_the_order_of_its_key_and_a_line_is_the_key(database: str) -> None:
    rows = fill(database)
    found = read(source(database))
    assert values(found) == rows
    assert [each.line for each in found] == [row["id"] for row in rows]
    assert {each.file for each in found} == {"tickets"}


def test_a_query_comes_in_the_order_of_its_cursor(database: str) -> None:
    rows = fill(database)
    query = "SELECT id, message || ':x' AS said, category FROM tickets -- with a remark; and a colon: here"
    found = read(source(database, query=query, cursor="id"))
    assert [row["said"] for row in values(found)] == [f"{row['message']}:x" for row in rows]


def test_a_query_that_orders_itself_is_taken_as_it_is(database: str) -> None:
    rows = fill(database)
    found = read(source(database, query="SELECT id, message, category FROM tickets ORDER BY id DESC;"))
    assert [row["id"] for row in values(found)] == [row["id"] for row in rows[::-1]]
    assert [each.line for each in found] == list(range(1, 61))


def test_a_cursor_that_repeats_is_made_whole_by_the_key_of_the_table(database: str) -> None:
    rows = fill(database)
    found = values(read(source(database, cursor="category")))
    assert [row["id"] for row in found] == [
        row["id"] for row in sorted(rows, key=lambda row: (row["category"], row["id"]))
    ]


def test_two_rows_with_one_cursor_value_are_refused_with_the_value(database: str) -> None:
    fill(database)
    error = refused(source(database, query="SELECT * FROM tickets", cursor="category"))
    assert "two rows have category = account" in error.message
    assert "[updated_at, id]" in error.hint


def test_bounds_take_what_lies_between(database: str) -> None:
    fill(database)
    found = values(read(source(database, cursor="id", after=100, until=200)))
    assert [row["id"] for row in found] == list(range(110, 201, 10))
    twice = values(read(source(database, query="SELECT * FROM tickets", cursor="id", after=100, until=200)))
    assert twice == found


def test_rows_without_a_cursor_value_are_broken_ones_and_none_is_lost(database: str) -> None:
    execute(database, "CREATE TABLE t (at INTEGER, message TEXT, category TEXT)")
    put = "INSERT INTO t VALUES (:at, 'hello', 'a')"
    execute(database, put, rows=[{"at": at} for at in (5, None, 3, None, 4)])
    found = read(source(database, table="t", cursor="at"))
    assert [each.line for each in found] == [3, 4, 5, -1, -2]
    broken = [each for each in found if isinstance(each, BrokenRow)]
    assert [each.key for each in broken] == ["at is empty (1 of 2)", "at is empty (2 of 2)"]
    assert "no value in the cursor's column" in str(broken[0].error())


def test_a_view_and_a_schema_are_read(postgres_database: str) -> None:
    rows = fill(postgres_database)
    execute(
        postgres_database,
        "CREATE VIEW open AS SELECT * FROM tickets WHERE id < 100",
        "CREATE SCHEMA desk",
        "CREATE TABLE desk.tickets AS SELECT * FROM tickets",
        "ALTER TABLE desk.tickets ADD PRIMARY KEY (id)",
    )
    assert len(read(source(postgres_database, table="open", cursor="id"))) == 9
    assert values(read(source(postgres_database, table="desk.tickets"))) == rows
    assert "name `cursor`" in refused(source(postgres_database, table="open")).hint


# values


def test_values_that_only_postgres_knows_are_json(postgres_database: str) -> None:
    make = """CREATE TABLE t (id UUID PRIMARY KEY, at TIMESTAMPTZ, day DATE, price NUMERIC, tags TEXT[], more JSONB,
        raw BYTEA, host INET, span INT4RANGE, yes BOOLEAN, ratio DOUBLE PRECISION)"""
    put = """INSERT INTO t VALUES ('00000000-0000-0000-0000-00000000000a', '2024-05-06 07:08:09+02', '2024-05-06', 1.50,
        '{a,b}', '{"k": [1, null]}', '\\x6162', '10.0.0.1', '[1,5)', true, 'NaN')"""
    ends = "INSERT INTO t (id, at, day) VALUES ('00000000-0000-0000-0000-00000000000b', 'infinity', '0044-03-15 BC')"
    execute(postgres_database, make, put.replace(":", r"\:"), ends)
    first, second = read(source(postgres_database, table="t"))
    assert isinstance(first, SourceRecord)
    assert isinstance(second, SourceRecord)
    assert first.values == {
        "id": "00000000-0000-0000-0000-00000000000a",
        "at": "2024-05-06T05:08:09+00:00",
        "day": "2024-05-06",
        "price": "1.50",
        "tags": ["a", "b"],
        "more": {"k": [1, None]},
        "raw": "YWI=",
        "host": "10.0.0.1",
        "span": "[1, 5)",
        "yes": True,
        "ratio": None,
    }
    assert (second.values["at"], second.values["day"]) == ("infinity", "0044-03-15 BC")
    assert second.key == "id = 00000000-0000-0000-0000-00000000000b"


def test_the_session_settings_of_the_reader_change_nothing(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        postgres_database,
        "CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMPTZ, x FLOAT8)",
        "INSERT INTO t VALUES (1, now(), random())",
    )
    one = source(postgres_database, table="t")
    before = (read(one), one.fingerprint(HERE))
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "German, DMY")
    monkeypatch.setenv("PGOPTIONS", "-c extra_float_digits=-10")
    assert (read(one), one.fingerprint(HERE)) == before


def test_text_that_is_no_utf8_is_a_broken_row_named_by_its_key(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("CREATE TABLE t (code TEXT PRIMARY KEY, message TEXT, category TEXT)")
        connection.execute("INSERT INTO t VALUES ('a7', CAST(x'ff41' AS TEXT), 'x'), ('a8', 'fine', 'y')")
    connection.close()
    broken, good = Sql(url="sqlite:///t.db", table="t").records(tmp_path, lambda text: None)
    assert isinstance(broken, BrokenRow)
    assert isinstance(good, SourceRecord)
    assert str(broken.error()).startswith(
        "t:1 (message): expected text in UTF-8, got other bytes (the row with code = a7)"
    )


def test_an_unusable_row_is_named_by_its_key(database: str, make: Maker) -> None:
    fill(database)
    execute(database, "UPDATE tickets SET message = '[]' WHERE id = 170")
    asked = {"kind": "sql", "url": database, "table": "tickets", "messages": "message"}
    with pytest.raises(DataError, match=r"^tickets:10 \(message\)"):
        make(source=asked)


def test_the_books_balance_when_broken_rows_are_left_out(tmp_path: Path, make: Maker) -> None:
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("CREATE TABLE t (code TEXT PRIMARY KEY, message TEXT, category TEXT)")
        rows = [(f"c{n:03}", row["message"].encode(), row["category"]) for n, row in enumerate(tickets(80))]
        rows[40] = ("c040", b"\xff\xfe", "billing")
        connection.executemany("INSERT INTO t VALUES (?, CAST(? AS TEXT), ?)", rows)
    connection.close()
    asked = {"kind": "sql", "url": "sqlite:///t.db", "table": "t", "prompt": "message", "answer": "category"}
    made = make(source={**asked, "on_error": "drop"}, split={"test": 20})
    assert made.summary.rows_in == 80
    assert made.summary.dropped == {"broken row": 1}
    assert "the row with code = c040" in made.events["reason"][0]
    assert made.summary.sources[0].file == "t"


# dropped connections


def kill_backends(url: str) -> None:
    mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    execute(url, f"{mine} AND pid <> pg_backend_pid()")


def taken(found: Iterator[Found], count: int) -> list[Found]:
    return [next(found) for _ in range(count)]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_WAIT_S", 0.0)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    "settings",
    [
        {"table": "tickets"},
        {"table": "tickets", "cursor": "half"},
        {"query": "SELECT * FROM tickets", "cursor": ["half", "id"]},
    ],
    ids=["key", "cursor and key", "query"],
)
def test_a_connection_that_drops_goes_on_from_the_cursor(postgres_database: str, settings: dict[str, Any]) -> None:
    execute(
        postgres_database,
        "CREATE TABLE tickets (id INT PRIMARY KEY, half TEXT, message TEXT)",
        "INSERT INTO tickets SELECT n, 'h' || n / 2, repeat('x', 50) FROM generate_series(1, 6000) n",
    )
    whole = read(source(postgres_database, **settings))
    said: list[str] = []
    found = source(postgres_database, **settings).records(HERE, said.append)
    got = taken(found, 1)
    for count in (1500, 2000, 700):
        kill_backends(postgres_database)
        got += taken(found, count)
    assert got + list(found) == whole
    assert len(said) == 3
    assert "the connection dropped after" in said[0]


@pytest.mark.usefixtures("no_waiting")
def test_the_books_are_the_same_after_a_dropped_connection(
    postgres_database: str, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_database, 200)
    asked = {"kind": "sql", "url": postgres_database, "table": "tickets", "prompt": "message", "answer": "category"}
    monkeypatch.setattr(reading, "FETCHED", 10)
    quiet = make(source=asked, split={"test": 40})
    records = reading.SqlReader.records

    def cut(self: reading.SqlReader) -> Iterator[Found]:
        for number, each in enumerate(records(self)):
            if number == 95:
                kill_backends(postgres_database)
            yield each

    monkeypatch.setattr(reading.SqlReader, "records", cut)
    dropped = make(source=asked, split={"test": 40})
    assert "tickets: the connection dropped after 1" in dropped.notes
    assert dropped.files() == quiet.files()


@pytest.mark.usefixtures("no_waiting")
def test_a_database_that_stays_away_is_said_after_the_last_try(postgres_database: str) -> None:
    fill(postgres_database, 150)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "FETCHED", 10)
        found = source(postgres_database, retries=2).records(HERE, said.append)
        taken(found, 15)
        name = postgres_database.partition("@/")[2].partition("?")[0]
        execute(postgres_database.replace(name, "postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        execute(
            postgres_database.replace(name, "postgres"),
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        with pytest.raises(DataError, match="cannot be reached"):
            list(found)
    assert len(said) == 2


def test_who_only_looks_at_the_first_rows_is_not_told_of_a_connection_that_drops_then(postgres_database: str) -> None:
    execute(postgres_database, "CREATE TABLE tickets AS SELECT n AS id, 'x' AS m FROM generate_series(1, 3000) n")
    found = source(postgres_database, cursor="id").read(HERE, lambda text: None)
    assert len(taken(found, 10)) == 10
    kill_backends(postgres_database)
    found.close()  # type: ignore[attr-defined]  # it is a generator: looking at the first rows ends so


def test_a_connection_that_drops_while_rows_are_looked_at_changes_nothing(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_database)
    one = source(postgres_database)
    quiet = one.fingerprint(HERE)
    reach, kills = selection._rows, iter([True, False])

    def dropping(connection: Connection, chosen: RowSelection) -> list[Any]:
        if next(kills):
            kill_backends(postgres_database)
        return reach(connection, chosen)

    monkeypatch.setattr(selection, "_rows", dropping)
    assert quiet is not None
    assert one.fingerprint(HERE) == quiet


@pytest.mark.usefixtures("no_waiting")
def test_a_query_without_a_cursor_cannot_go_on(postgres_database: str) -> None:
    execute(postgres_database, "CREATE TABLE t AS SELECT n AS id, 'x' AS m FROM generate_series(1, 3000) n")
    found = source(postgres_database, query="SELECT * FROM t ORDER BY id").records(HERE, lambda text: None)
    taken(found, 10)
    kill_backends(postgres_database)
    with pytest.raises(DataError, match="has no `cursor` to go on from"):
        list(found)


# read only


@pytest.mark.parametrize(
    "query",
    [
        "WITH gone AS (DELETE FROM tickets RETURNING id) SELECT id FROM gone ORDER BY id",
        "SELECT nextval('s') ORDER BY 1",
    ],
)
def test_a_query_cannot_write(postgres_database: str, query: str) -> None:
    fill(postgres_database)
    execute(postgres_database, "CREATE SEQUENCE s")
    assert "only read" in refused(source(postgres_database, query=query)).message
    assert execute(postgres_database, "SELECT count(*) FROM tickets") == [(60,)]


def test_an_sqlite_file_is_opened_for_reading_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    fill(url)
    (tmp_path / "test.db").chmod(0o400)
    before = (tmp_path / "test.db").read_bytes()
    assert len(read(source(url))) == 60
    assert (tmp_path / "test.db").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.db"]


@pytest.mark.parametrize("query", ["DROP TABLE tickets", "DELETE FROM tickets", "PRAGMA query_only=OFF", "; SELECT 1"])
def test_what_is_no_select_is_refused_before_anything_runs(query: str) -> None:
    with pytest.raises(ValidationError, match="no SELECT"):
        source("sqlite:///test.db", query=query, cursor="id")


# fingerprints

EDITS = {
    "added": "INSERT INTO tickets VALUES (9999, 'new', 'billing', 'C-1')",
    "lost": "DELETE FROM tickets WHERE id = 300",
    "edited": "UPDATE tickets SET message = 'other' WHERE id = 300",
    "emptied": "UPDATE tickets SET customer = NULL WHERE id = 300",
    "swapped": "UPDATE tickets SET message = category, category = message WHERE id = 300",
    "renamed": "ALTER TABLE tickets RENAME COLUMN customer TO client",
}


@pytest.mark.parametrize("edit", EDITS)
def test_any_change_of_the_rows_changes_the_fingerprint(database: str, edit: str) -> None:
    fill(database)
    table, query = source(database), source(database, query="SELECT * FROM tickets ORDER BY id")
    before = (table.fingerprint(HERE), query.fingerprint(HERE))
    assert before == (table.fingerprint(HERE), query.fingerprint(HERE))
    assert None not in before
    execute(database, EDITS[edit])
    after = (table.fingerprint(HERE), query.fingerprint(HERE))
    assert after[0] != before[0]
    assert after[1] != before[1]


def test_a_change_beside_the_rows_changes_nothing(database: str) -> None:
    fill(database)
    below = source(database, cursor="id", until=200)
    before = below.fingerprint(HERE)
    execute(database, EDITS["added"])
    execute(database, "CREATE TABLE other (id INTEGER)")
    execute(database, "UPDATE tickets SET message = message")
    assert below.fingerprint(HERE) == before
    execute(database, "UPDATE tickets SET message = 'other' WHERE id = 100")
    assert below.fingerprint(HERE) != before


@pytest.mark.parametrize(("edit", "seen"), [("added", True), ("lost", True), ("edited", False)])
def test_a_fingerprint_by_the_cursor_sees_what_it_says_it_sees(database: str, edit: str, *, seen: bool) -> None:
    fill(database)
    one = source(database, cursor="id", changed_by="cursor")
    before = one.fingerprint(HERE)
    execute(database, EDITS[edit])
    assert (one.fingerprint(HERE) != before) is seen


def test_the_size_is_near_the_truth(database: str) -> None:
    rows = fill(database, 90)
    true = sum(len(repr(tuple(row.values()))) for row in rows)
    assert source(database).size(HERE) == pytest.approx(true, rel=0.3)


def test_what_is_not_there_has_no_fingerprint(database: str, tmp_path: Path) -> None:
    fill(database)
    for lost in (source(database, table="nowhere"), source(f"sqlite:///{tmp_path / 'no.db'}")):
        assert lost.fingerprint(HERE) is None
        assert lost.size(HERE) is None


def test_a_run_is_cached_until_the_table_changes(database: str, tmp_path: Path) -> None:
    fill(database, 90)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_recipe(f"{{kind: sql, url: '{database}', table: tickets, prompt: message, answer: category}}"))
    first = Recipe.load(recipe).run()
    assert Recipe.load(recipe).run()["data"].cached
    execute(database, EDITS["edited"])
    again = Recipe.load(recipe).run()["data"]
    assert not again.cached
    assert again.artifact.digest != first["data"].artifact.digest
    assert "other" in str(again.frame("examples/train.parquet")["messages"].to_list())


def test_a_table_that_changes_while_it_is_read_makes_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 90)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_recipe(f"{{kind: sql, url: '{database}', table: tickets, prompt: message, answer: category}}"))
    what = Recipe.load(recipe).plan()
    records = reading.SqlReader.records

    def while_somebody_writes(self: reading.SqlReader) -> Iterator[Found]:
        yield from records(self)
        execute(database, "UPDATE tickets SET message = message || '.' WHERE id = 300")

    monkeypatch.setattr(reading.SqlReader, "records", while_somebody_writes)
    with pytest.raises(DataError, match="changed on the way, so nothing was kept"):
        Recipe.load(recipe).run()
    assert not what.store.has(what["data"].digest)


def _recipe(source: str) -> str:
    split = "{test: 20}"
    return f"luthier: 1\nsteps:\n  data:\n    kind: prepare\n    source: {source}\n    split: {split}\n"


# secrets

PASSWORD = "p4ss/w@rd:42?"


def test_the_whole_url_or_its_parts_come_from_the_environment(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fill(postgres_database)
    monkeypatch.setenv("TICKETS_DB", postgres_database)
    assert values(read(source("$TICKETS_DB"))) == rows
    monkeypatch.setenv("PW", PASSWORD)
    assert values(read(source(postgres_database.replace("postgres@", "postgres:$PW@", 1)))) == rows
    monkeypatch.delenv("PW")
    with pytest.raises(InputError, match="no variable PW"):
        read(source(postgres_database.replace("postgres@", "postgres:${PW}@", 1)))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@db/x",
        "postgresql://me:a/b@db/x",
        f"postgresql://db/x?password={PASSWORD}",
        f"postgresql://db/x?user=me&sslpassword={PASSWORD}",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhello",
    ],
)
def test_a_password_in_a_recipe_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_recipe(f"{{kind: sql, url: '{url}', table: tickets}}"))
    with pytest.raises(RecipeError, match="holds a secret in clear") as caught:
        Recipe.load(recipe)
    assert PASSWORD not in str(caught.value)
    assert url not in str(caught.value)
    assert "export NAME" in caught.value.hint


def test_a_secret_stands_in_no_file_event_log_or_error(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_database, 90)
    url = postgres_database.replace("postgres@", "postgres:$PW@", 1)
    (tmp_path / "recipe.yaml").write_text(
        _recipe(f"{{kind: sql, url: '{url}', table: tickets, prompt: message, answer: category}}")
    )
    environment = {**os.environ, "PW": PASSWORD, "LUTHIER_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "luthier", "run", str(tmp_path)]
    done = ready.run(command, env=environment)
    assert done.returncode == 0, done.stderr
    bad = ready.run([*command, "steps.data.source.table=nowhere"], env=environment)
    assert bad.returncode == 2
    said = done.stdout + done.stderr + bad.stdout + bad.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for form in (PASSWORD, "p4ss%2Fw%40rd%3A42%3F"):
        assert form not in said
        assert form.encode() not in written


def test_a_driver_that_repeats_the_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", f"postgresql://me@/x?host=/nowhere/{PASSWORD[:4]}&password={PASSWORD[:4]}")
    error = refused(source("$DB"))
    assert "cannot be reached" in error.message
    assert PASSWORD[:4] not in str(error)
    assert error.where.file == "$DB"


# what can be wrong


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "wants either `table` or `query`"),
        ({"table": "t", "query": "SELECT 1"}, "wants either `table` or `query`"),
        ({"query": "SELECT 1 AS a"}, "has no order"),
        ({"table": "t", "after": 5}, "name `cursor`"),
        ({"table": "t", "until": 5}, "name `cursor`"),
        ({"table": "t", "changed_by": "cursor"}, "name `cursor`"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Sql(url="sqlite:///t.db", **settings)


@pytest.mark.parametrize(
    ("settings", "says", "do"),
    [
        ({"table": "ticket"}, "no such table or view", "'tickets'"),
        ({"cursor": "idd"}, "", ""),
        ({"query": "SELECT 1 AS a, 2 AS a ORDER BY 1"}, "two columns have the same name", "another name"),
        ({"query": "SELECT * FROM tickets WHERE id < 0", "cursor": "id"}, "has no rows", "check"),
        ({"query": "SELECT nonsense FROM tickets", "cursor": "id"}, "refuses", "shell"),
        ({"query": "SELECT message FROM tickets", "cursor": "message, id"}, "", ""),
    ],
)
def test_a_mistake_is_one_clear_error(database: str, settings: dict[str, Any], says: str, do: str) -> None:
    fill(database)
    error = refused(source(database, **settings))
    assert isinstance(error, DataError)
    assert says in error.message
    assert do in error.hint
    assert error.where.file


def test_places_that_are_none_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("this is a text, and no database" * 100)
    assert "is no database" in refused(source(f"sqlite:///{tmp_path / 'text.db'}")).message
    assert "names no file" in refused(source("sqlite://")).message
    assert "is no database URL" in refused(source("tickets.db")).message
    assert "cannot be reached" in refused(source(f"postgresql://me@/x?host={tmp_path}")).message
    assert isinstance(refused(source("nosuch://db/x")), MissingExtra)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert refused(source("postgresql://db/x")).hint == "pip install 'luthier[postgres]'"


@pytest.mark.parametrize("rows", [20_000])
def test_memory_does_not_grow_with_the_table(database: str, rows: int) -> None:
    execute(database, "CREATE TABLE t (id INTEGER PRIMARY KEY, m TEXT)")
    put = "INSERT INTO t VALUES (:id, :m)"
    execute(database, put, rows=[{"id": n, "m": f"{n}" + "x" * 1000} for n in range(1, rows + 1)])
    one = source(database, table="t")
    next(iter(one.records(HERE, lambda text: None)))
    tracemalloc.start()
    assert sum(1 for _ in one.records(HERE, lambda text: None)) == rows
    one.fingerprint(HERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000  # the table has 20 MB
