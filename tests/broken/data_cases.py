"""Files of data that are not there, not what they are said to be, or broken on a line."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.broken.case import UNREADABLE, Case, data_recipe, json_lines, with_line_17
from tests.tiny_models import tickets

RUN = ("run",)
CSV = "{kind: csv, path: tickets.csv, prompt: message, answer: category}"
LINES = ["message,category,customer", *(",".join(row.values()) for row in tickets(60))]
MEND = "mend the row, or set `on_error: drop`"
ROWS_WANTED = "give a file with at least one row"
TALK = [
    {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": ("yes", "no")[n % 2]}]}
    for n in range(40)
]
ASKED = {"role": "user", "content": "hello"}
ANSWERED = {"role": "assistant", "content": "yes"}


def _csv(name: str, at: str, says: str, do: str, content: str | bytes, source: str = CSV, **more: Any) -> Case:
    recipe = data_recipe(source, **more)
    return Case(name, at, says, do, RUN, recipe, {"tickets.csv": content}, kind="DataError")


def _text(rows: list[str], line_17: str | None = None) -> str:
    return "\n".join(rows if line_17 is None else with_line_17(rows, line_17))


def _spreadsheet() -> bytes:
    """The parts by which a workbook is known."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return made.getvalue()


def _talk(name: str, field: str, says: str, do: str, line_17: Any) -> Case:
    at = f"talk.jsonl:17 ({field})" if field else "talk.jsonl:17"
    files = {"talk.jsonl": json_lines(with_line_17(TALK, line_17))}
    return Case(name, at, says, do, RUN, data_recipe("{kind: jsonl, path: talk.jsonl}"), files, kind="DataError")


def _said(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def _called(call: Any) -> dict[str, Any]:
    return _said(ASKED, {"role": "assistant", "content": "", "tool_calls": call})


def _file(name: str, at: str, says: str, do: str, source: str, **more: Any) -> Case:
    return Case(name, at, says, do, RUN, data_recipe(source), kind="DataError", **more)


def _parquet(name: str, at: str, says: str, do: str, spoil: Callable[[bytes], bytes], source: str = "") -> Case:
    source = source or "{kind: parquet, path: rows.parquet, prompt: message, answer: category}"
    return _file(name, at, says, do, source, before=lambda folder: _write_parquet(folder / "rows.parquet", spoil))


def _write_parquet(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    import polars

    polars.DataFrame(tickets(40)).write_parquet(path)
    path.write_bytes(spoil(path.read_bytes()))


def _write_empty_parquet(folder: Path) -> None:
    import polars

    polars.DataFrame(tickets(1)).clear().write_parquet(folder / "rows.parquet")


def _pipe(folder: Path) -> None:
    (folder / "tickets.csv").unlink()
    os.mkfifo(folder / "tickets.csv")


def _link_out(folder: Path) -> None:
    (folder / "rows").mkdir()
    (folder / "rows" / "notes.csv").symlink_to("/etc/hostname")


WHEELS = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels", "PIP_CONFIG_FILE": os.devnull}


def _wheel(name: str, at: str, says: str, do: str, settings: str, kind: str = "DataError") -> Case:
    recipe = data_recipe(f"{{kind: wheel, package: broken-rows, {settings}}}")
    return Case(name, at, says, do, RUN, recipe, before=_write_wheel, environment=WHEELS, kind=kind)


def _write_wheel(folder: Path) -> str:
    """A package with one CSV file, where pip finds it; returns its sum."""
    path = folder / "wheels" / "broken_rows-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "broken_rows-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("broken_rows/rows.csv", _text(LINES))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: broken-rows\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes()).hexdigest()


DELIMITED = (
    _csv("binary", "tickets.csv", "is not a text file", "CSV, JSONL or Parquet", b"\x89PNG\r\n\x1a\n" + bytes(50)),
    _csv("a spreadsheet", "tickets.csv", "is not a text file", "use `kind: excel`", _spreadsheet()),
    _csv("half a zip", "tickets.csv", "is not a whole zip archive", "pack it again", b"PK\x03\x04" + b"x" * 50),
    _csv(
        "half a gzip",
        "tickets.csv",
        "cannot be unpacked to its end",
        "pack it again",
        gzip.compress(_text(LINES).encode())[:-20],
    ),
    _csv(
        "not UTF-16",
        "tickets.csv",
        "no byte order mark",
        "check `encoding`",
        _text(LINES),
        CSV.replace("}", ", encoding: utf-16}"),
    ),
    _csv(
        "unknown encoding",
        "tickets.csv (encoding)",
        "'utf-9' is unknown",
        "such as utf-8",
        _text(LINES),
        CSV.replace("}", ", encoding: utf-9}"),
    ),
    _csv("empty", "tickets.csv", "is empty", ROWS_WANTED, ""),
    _csv("only a mark", "tickets.csv", "is empty", ROWS_WANTED, b"\xef\xbb\xbf\n"),
    _csv("only a header", "tickets.csv", "a header and no rows", ROWS_WANTED, f"{LINES[0]}\n"),
    _csv("row 17 too short", "tickets.csv:17", "1 field, the header has 3", MEND, _text(LINES, "only this")),
    _csv("row 17 too long", "tickets.csv:17", "5 fields, the header has 3", MEND, _text(LINES, "a,b,c,d,e")),
    _csv("row 17 opens a quote", "tickets.csv:17", "opened in this row and never closed", MEND, _text(LINES, '"a,b,c')),
    _csv("row 17 quotes oddly", "tickets.csv:17", "the row's quoting is broken", MEND, _text(LINES, '"a"b,c,d')),
    _csv(
        "row 17 in another encoding",
        "tickets.csv:17",
        "byte 0xe9 at position 4",
        "cp1252",
        _text(["message,category,customer", *["schön,billing,C"] * 9]).encode() + b"\n" * 7 + b"caf\xe9,billing,C\n",
    ),
    _csv("row 17 with a NUL", "tickets.csv:17", "a NUL byte", "tr -d", _text(LINES, "a\0b,billing,C")),
    _csv("row 17 of 50 MB", "tickets.csv:17", "longer than 16 MiB", "split the row", _text(LINES, "x" * 50_000_000)),
    _csv(
        "no such column",
        "tickets.csv:1 (prompt)",
        "no column 'mesage'",
        "'message'",
        _text(LINES),
        CSV.replace("message", "mesage"),
    ),
    _csv(
        "no such column in a template",
        "tickets.csv:1 (prompt)",
        "no column 'subjekt'",
        "known: category",
        _text(LINES),
        CSV.replace("prompt: message", "prompt: '{subjekt} {message}'"),
    ),
    _csv(
        "no such group",
        "tickets.csv:1 (group)",
        "no column 'costumer'",
        "'customer'",
        _text(LINES),
        split="{test: 30, group: costumer}",
    ),
    _csv(
        "another delimiter",
        "tickets.csv:1 (prompt)",
        "no column 'message'",
        "known: message,category,customer",
        _text(LINES),
        CSV.replace("}", ", delimiter: ';'}"),
    ),
    _csv(
        "id twice",
        "tickets.csv:3 (customer)",
        "the id 'C-0' stands in line 2",
        MEND,
        _text(LINES),
        CSV.replace("}", ", id: customer}"),
    ),
    _csv(
        "columns without meaning",
        "tickets.csv",
        "cannot tell which columns",
        "columns of a, b, c",
        "a,b,c\n1,2,3\nx,y,z\n",
        "{kind: csv, path: tickets.csv}",
    ),
    _csv(
        "one class only",
        "recipe.yaml:5 (steps.data.source.answer)",
        "the same answer, 'x'",
        "at least two classes",
        "message,category\n" + "".join(f"text {n},x\n" for n in range(40)),
    ),
    _csv(
        "no answers",
        "recipe.yaml:5 (steps.data.source)",
        "no row is left: 40 × empty answer",
        "mapping of columns",
        "message,category\n" + "".join(f"text {n},\n" for n in range(40)),
    ),
    _csv(
        "every row broken",
        "recipe.yaml:5 (steps.data.source)",
        "no row is left: 20 × broken row",
        "loosen",
        "message,category\n" + "x\n" * 20,
        CSV.replace("}", ", on_error: drop}"),
    ),
    _csv(
        "all held out",
        "recipe.yaml:7 (steps.data.split)",
        "no row is left to train on",
        "hold fewer rows out",
        _text(LINES),
        split="{test: 60}",
    ),
    Case(
        "half a template",
        "recipe.yaml:5 (steps.data.source.prompt)",
        "'{message' is not a template",
        "columns in braces",
        RUN,
        data_recipe(CSV.replace("prompt: message", "prompt: '{message'")),
    ),
)

JSON = (
    _talk("line 17 cut off", "", "is not JSON: Expecting", MEND, '{"messages": [{"role": "user"'),
    _talk("line 17 an array", "", "expected a JSON object, got an array", MEND, [1, 2]),
    _talk("line 17 with NaN", "", "NaN is not a JSON number", MEND, '{"messages": [], "score": NaN}'),
    _talk("line 17 too large a number", "", "1e999 is too large", MEND, '{"messages": [], "score": 1e999}'),
    _talk("line 17 too deep", "", "nested too deeply", MEND, f'{{"a": {"[" * 100_000}{"]" * 100_000}}}'),
    _talk("line 17 half a surrogate", "", "half of a surrogate pair", MEND, '{"messages": [{"role": "\\ud800"}]}'),
    _talk(
        "unknown role",
        "messages[0]",
        "role 'ghost' is unknown",
        "known: assistant",
        _said({"role": "ghost", "content": "x"}, ANSWERED),
    ),
    _talk(
        "near a role",
        "messages[0]",
        "role 'usr' is unknown",
        "did you mean 'user'?",
        _said({"role": "usr", "content": "x"}, ANSWERED),
    ),
    _talk("no role", "messages[0]", "a message has no role", "known: system", _said({"content": "x"}, ANSWERED)),
    _talk(
        "an object for content",
        "messages[0]",
        "expected text, got an object",
        MEND,
        _said({"role": "user", "content": {"a": 1}}, ANSWERED),
    ),
    _talk(
        "a file in a turn",
        "messages[0]",
        "a part of type 'file' cannot be read",
        "known types: text, image",
        _said({"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}, ANSWERED),
    ),
    _talk("messages as text", "messages", "expected JSON in this cell", MEND, {"messages": "hello"}),
    _talk("no messages", "messages", "the row has no 'messages'", "did you mean 'message'?", {"message": []}),
    _talk("messages of nothing", "messages", "the list of messages is empty", MEND, {"messages": []}),
    _talk("a call without a name", "messages[1]", "no function name", MEND, _called([{"id": "1"}])),
    _talk("calls as a number", "messages[1]", "expected a list of tool calls", MEND, _called(7)),
    _talk(
        "a name that is a list",
        "messages[0].name",
        "expected text, got a list",
        MEND,
        _said({**ASKED, "name": ["a"]}, ANSWERED),
    ),
    _talk("tools as a number", "tools", "expected a list of tool schemas", MEND, _said(ASKED, ANSWERED, tools=7)),
    _file(
        "one array",
        "talk.jsonl:1",
        "holds one JSON array",
        "use `kind: json`",
        "{kind: jsonl, path: talk.jsonl}",
        files={"talk.jsonl": "[{}, {}]"},
    ),
    _file("CSV as JSONL", "tickets.csv:1", "is not JSON", MEND, "{kind: jsonl, path: tickets.csv}"),
    _file(
        "Parquet as JSONL",
        "talk.jsonl",
        "is not a text file",
        "use `kind: parquet`",
        "{kind: jsonl, path: talk.jsonl}",
        files={"talk.jsonl": b"PAR1\0\0\0"},
    ),
    _file(
        "nobody answers",
        "recipe.yaml:5 (steps.data.source)",
        "no row is left: 40 × no answer",
        "mapping of columns",
        "{kind: jsonl, path: talk.jsonl}",
        files={"talk.jsonl": json_lines([_said(ASKED)] * 40)},
    ),
)

PLACES = (
    _file(
        "unreadable",
        "rows.csv",
        "cannot be read",
        "the right to read it",
        "{kind: csv, path: rows.csv}",
        before=lambda folder: (folder / "rows.csv").symlink_to(UNREADABLE),
    ),
    _file(
        "near a file",
        "tikets.csv",
        "there is no such file",
        "did you mean 'tickets.csv'?",
        "{kind: csv, path: tikets.csv}",
    ),
    _file(
        "no file",
        "data/train.jsonl",
        "there is no such file",
        "relative paths start at",
        "{kind: jsonl, path: data/train.jsonl}",
    ),
    _file(
        "a variable in a path",
        "$HOME/rows.csv",
        "there is no such file",
        "what the environment variable in it says",
        "{kind: csv, path: $HOME/rows.csv}",
    ),
    _file(
        "a secret for a path",
        "$OPENAI_API_KEY",
        "there is no such file",
        "what the environment variable in it says",
        "{kind: csv, path: $OPENAI_API_KEY}",
        environment={"OPENAI_API_KEY": "sk-secret"},
    ),
    _file(
        "a folder for a file",
        "tiny-model",
        "holds no file that can be read",
        "known endings: .csv",
        "{kind: csv, path: tiny-model}",
    ),
    _file("a pipe for a file", "tickets.csv", "is a pipe or a device", "save its rows", CSV, before=_pipe),
    _file("no folder", "rows", "there is no such folder", "check `path`", "{kind: folder, path: rows}"),
    _file(
        "a file for a folder",
        "tickets.csv",
        "is a file, not a folder",
        "check `path`",
        "{kind: folder, path: tickets.csv}",
    ),
    _file(
        "folder without files",
        "rows",
        "holds no file that can be read",
        "known endings: .arrow",
        "{kind: folder, path: rows}",
        files={"rows/letter.docx": "x"},
    ),
    _file(
        "pattern without files",
        "rows",
        "holds no file that can be read",
        "`glob` is '*.jsonl'",
        "{kind: folder, path: rows, glob: '*.jsonl'}",
        files={"rows/a.csv": "a,b\n1,2\n"},
    ),
    _file(
        "pattern that climbs",
        "rows/../tickets.csv",
        "leads out of the folder",
        "copy the file",
        "{kind: folder, path: rows, glob: '../*.csv'}",
        files={"rows/a.csv": "a,b\n1,2\n"},
    ),
    _file(
        "pattern from the root",
        "recipe.yaml:5 (steps.data.source.glob)",
        "'/etc/*' is not a pattern",
        "such as *.jsonl",
        "{kind: folder, path: rows, glob: '/etc/*'}",
        files={"rows/a.csv": "a,b\n1,2\n"},
    ),
    _file(
        "a link out of a folder",
        "rows/notes.csv",
        "leads out of the folder",
        "copy the file",
        "{kind: folder, path: rows}",
        before=_link_out,
    ),
    _file(
        "files of different columns",
        "rows/b.csv:2 (message)",
        "the row has no 'message'",
        "known: answer, question",
        "{kind: folder, path: rows, prompt: message, answer: category}",
        files={"rows/a.csv": "message,category\nhello,x\nhi,y\n", "rows/b.csv": "question,answer\nhello,x\n"},
    ),
    _parquet(
        "Parquet cut off", "rows.parquet", "is not a Parquet file that can be read", "is whole", lambda data: data[:-20]
    ),
    _parquet(
        "CSV as Parquet", "rows.parquet", "is not a Parquet file that can be read", "it is Parquet", lambda _: b"a,b\n"
    ),
    _parquet(
        "no such column of Parquet",
        "rows.parquet:1 (answer)",
        "no column 'categories'",
        "'category'",
        lambda data: data,
        "{kind: parquet, path: rows.parquet, prompt: message, answer: categories}",
    ),
    _file(
        "Parquet without rows",
        "rows.parquet",
        "has no rows",
        ROWS_WANTED,
        "{kind: parquet, path: rows.parquet, prompt: message, answer: category}",
        before=_write_empty_parquet,
    ),
    _wheel(
        "version that is not there",
        "recipe.yaml:5 (steps.data.source.version)",
        "no wheel of version 2.0",
        "1.0",
        "version: '2.0', path: x.csv",
    ),
    _wheel(
        "sum of another wheel",
        "recipe.yaml:5 (steps.data.source.sha256)",
        f"not {'0' * 64} as wanted",
        "put the new sum",
        f"version: '1.0', path: broken_rows/rows.csv, sha256: '{'0' * 64}'",
    ),
    _wheel(
        "member that climbs",
        "broken_rows-1.0-py3-none-any.whl (path)",
        "'../rows.csv' is not a path inside",
        "as it stands in the wheel",
        "version: '1.0', path: ../rows.csv",
        "InputError",
    ),
    _wheel(
        "member that is not there",
        "broken_rows-1.0-py3-none-any.whl (path)",
        "holds no 'broken_rows/row.csv'",
        "'broken_rows/rows.csv'",
        "version: '1.0', path: broken_rows/row.csv",
    ),
)
CASES = (*DELIMITED, *JSON, *PLACES)
