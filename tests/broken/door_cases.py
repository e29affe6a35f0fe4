"""The command line itself: words, overrides, stores, and things asked for before they are made or that nobody made."""

from __future__ import annotations

from pathlib import Path

from tests.broken.case import Case
from tests.tiny_models import RECIPE

LINE = "command line"


def _typed(name: str, at: str, says: str, do: str, *command: str, kind: str = "InputError", made: bool = False) -> Case:
    return Case(name, at, says, do, command, made=made, kind=kind)


def _given(name: str, at: str, says: str, do: str, text: str) -> Case:
    return Case(name, at, says, do, ("plan", "recipe.yaml", text))


def _flip(folder: Path) -> None:
    """Change one byte of a finished data set."""
    path = next((folder / ".luthier" / "artifacts").glob("*/examples/train.parquet"))
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))


def _same_beginning(folder: Path) -> None:
    """A second artifact whose name begins like the first's."""
    first = sorted((folder / ".luthier" / "artifacts").iterdir())[0]
    for digit in "01":
        twin = first.with_name(f"abcdef{digit}{first.name[7:]}")
        twin.mkdir()
        (twin / "manifest.json").write_bytes((first / "manifest.json").read_bytes())


def _foreign(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")
    (folder / "out" / "train.jsonl").write_text("{}\n")


USAGE = (
    _typed("unknown command", "luthier", "no such command 'pln'. Did you mean 'plan'", "`luthier --help`", "pln"),
    _typed("unknown option", "luthier plan", "no such option: --jsn", "`luthier plan --help`", "plan", "--jsn"),
    _typed("argument left out", "luthier score", "missing argument 'FILE'", "`luthier score --help`", "score"),
    _typed(
        "option left out",
        "luthier export",
        "missing option '--to'",
        "`luthier export --help`",
        "export",
        "recipe.yaml:data",
    ),
    _typed(
        "one argument too many", "luthier doctor", "unexpected extra argument", "`luthier doctor --help`", "doctor", "x"
    ),
    _typed(
        "unknown format",
        "--format",
        "there is no format 'cvs'",
        "did you mean 'csv'?",
        "export",
        "recipe.yaml:data",
        "--to",
        "out",
        "--format",
        "cvs",
        kind="UnknownName",
    ),
    _typed("no tokens", "luthier chat", "'--max-tokens'", "`luthier chat --help`", "chat", "--max-tokens", "0"),
    _typed("unknown role", "ROLE", "no role 'operater'", "'operator'", "components", "operater", kind="UnknownName"),
    _typed(
        "unknown part", "KIND", "there is no operator 'pi'", "'pii'", "components", "operator", "pi", kind="UnknownName"
    ),
)
OVERRIDES = (
    _given("no sign", f"{LINE} (rows)", "expected PATH=VALUE", "steps.tune.technique.r=32", "rows"),
    _given("no path", f"{LINE} (=5)", "expected PATH=VALUE", "steps.tune.technique.r=32", "=5"),
    _given("a gap in the path", f"{LINE} (steps..r=5)", "expected PATH=VALUE", "steps.tune", "steps..r=5"),
    _given(
        "unknown setting", f"{LINE} (steps.tune.technique.rr)", "no setting 'rr'", "'r'", "steps.tune.technique.rr=5"
    ),
    _given(
        "wrong value",
        f"{LINE} (steps.tune.technique.r)",
        "expected a whole number, got 'abc'",
        "(then 16)",
        "steps.tune.technique.r=abc",
    ),
    _given(
        "no such item", f"{LINE} (steps.data.ops.7=x)", "'7' is not an item", "2 items, from 0", "steps.data.ops.7=x"
    ),
    _given("inside a number", f"{LINE} (seed.x=5)", "'x' cannot be set inside 3", "a setting of a part", "seed.x=5"),
    _given(
        "value that is not YAML",
        f"{LINE} (steps.tune.technique.r=[1)",
        "is not YAML",
        "close the bracket",
        "steps.tune.technique.r=[1",
    ),
    _given(
        "step that is not there",
        f"{LINE} (steps.tone.data)",
        "is required",
        "a step that makes a dataset",
        "steps.tone.kind=tune",
    ),
)
BEFORE = (
    _typed(
        "a step not made",
        "recipe.yaml (steps.tune)",
        "not made yet",
        "`luthier run recipe.yaml",
        "show",
        "recipe.yaml:tune",
        kind="UnknownName",
    ),
    _typed(
        "no such step",
        "recipe.yaml (steps)",
        "there is no step 'tone'",
        "'tune'",
        "show",
        "recipe.yaml:tone",
        kind="UnknownName",
    ),
    _typed(
        "no such recipe",
        "tickets.yaml",
        "no such recipe",
        "`luthier new NAME`",
        "show",
        "tickets.yaml",
        kind="RecipeError",
    ),
    _typed(
        "neither recipe nor digest",
        "RECIPE:STEP",
        "got 'tickets'",
        "for example recipe.yaml:tune",
        "show",
        "tickets",
        kind="UnknownName",
    ),
    _typed("data for a recipe", "tickets.csv:1", "got text", "luthier: 1", "show", "tickets.csv", kind="RecipeError"),
    _typed(
        "unknown digest",
        "{folder}/.luthier",
        "no artifact has a digest beginning with 'abcdef12'",
        "`luthier store list`",
        "show",
        "abcdef12",
        kind="UnknownName",
    ),
    _typed(
        "a report of nothing",
        "recipe.yaml",
        "nothing of this recipe is made yet",
        "`luthier run recipe.yaml",
        "report",
        kind="UnknownName",
    ),
    _typed(
        "chat too early",
        "recipe.yaml (steps.tune)",
        "not made yet",
        "`luthier run recipe.yaml",
        "chat",
        "--prompt",
        "hello",
        kind="UnknownName",
    ),
    _typed(
        "chat with nobody",
        "model",
        "model 'smollm' is unknown",
        "did you mean 'smollm2-1.7b-instruct' or",
        "chat",
        "smollm",
        "-p",
        "hello",
        kind="ModelError",
    ),
    _typed(
        "compared too early",
        "recipe.yaml (steps.report)",
        "not made yet",
        "`luthier run recipe.yaml",
        "compare",
        "recipe.yaml",
        "recipe.yaml",
        kind="UnknownName",
    ),
    _typed(
        "traced too early",
        "recipe.yaml (steps.data)",
        "the step 'data' is not made yet",
        "`luthier run recipe.yaml",
        "lineage",
        "0123456789abcdef",
        kind="UnknownName",
    ),
    _typed(
        "exported too early",
        "recipe.yaml (steps.data)",
        "not made yet",
        "`luthier run recipe.yaml",
        "export",
        "recipe.yaml:data",
        "--to",
        "out",
        kind="UnknownName",
    ),
)
AFTER = (
    _typed(
        "no such example",
        "recipe.yaml",
        "no example has the id '0123456789abcdef'",
        "at least four characters",
        "lineage",
        "0123456789abcdef",
        kind="UnknownName",
        made=True,
    ),
    _typed(
        "a data set as GGUF",
        "recipe.yaml:data",
        "a dataset cannot be exported as gguf",
        "formats of a dataset: jsonl, argilla, ",
        "export",
        "recipe.yaml:data",
        "--to",
        "out",
        "--format",
        "gguf",
        made=True,
    ),
    _typed(
        "a model as JSON lines",
        "recipe.yaml:tune",
        "a model cannot be exported as jsonl",
        "hf, adapter, merged, gguf",
        "export",
        "recipe.yaml:tune",
        "--to",
        "out",
        "--format",
        "jsonl",
        made=True,
    ),
    _typed(
        "a verdict as anything",
        "recipe.yaml:gate",
        "a verdict cannot be exported",
        "`luthier report` draws it",
        "export",
        "recipe.yaml:gate",
        "--to",
        "out",
        made=True,
    ),
    _typed(
        "a base as an adapter",
        "recipe.yaml:model",
        "is a whole model, not an adapter",
        "export it as `hf`",
        "export",
        "recipe.yaml:model",
        "--to",
        "out",
        "--format",
        "adapter",
        kind="ModelError",
        made=True,
    ),
    _typed(
        "data beside a model",
        "recipe.yaml:data recipe.yaml:tune",
        "got a dataset and a model",
        "of the same kind",
        "compare",
        "recipe.yaml:data",
        "recipe.yaml:tune",
        made=True,
    ),
    _typed(
        "chat with data",
        "recipe.yaml:data",
        "tickets:data is a dataset, not a model",
        "the step that tunes",
        "chat",
        "recipe.yaml:data",
        "-p",
        "hello",
        kind="ModelError",
        made=True,
    ),
    Case(
        "export over other files",
        "{folder}/out",
        "is not empty, and not an earlier export",
        "a new folder",
        ("export", "recipe.yaml:tune", "--to", "out", "--format", "adapter"),
        before=_foreign,
        made=True,
        kind="InputError",
    ),
    Case(
        "export over other rows",
        "out/train.jsonl",
        "is there already and differs",
        "give another folder",
        ("export", "recipe.yaml:data", "--to", "out"),
        before=_foreign,
        made=True,
        kind="DataError",
    ),
    Case(
        "export into a file",
        "out",
        "is in the way",
        "move it away",
        ("export", "recipe.yaml:data", "--to", "out"),
        files={"out": "mine"},
        made=True,
        kind="SystemResourceError",
    ),
    Case(
        "two digests",
        "{folder}/.luthier",
        "2 artifacts have a digest beginning with 'abcdef'",
        "`luthier store list`",
        ("show", "abcdef"),
        before=_same_beginning,
        made=True,
        kind="UnknownName",
    ),
    Case(
        "report below a file",
        "tickets.csv/r.html",
        "not a folder",
        "move it away",
        ("report", "recipe.yaml", "--to", "tickets.csv/r.html"),
        made=True,
        kind="SystemResourceError",
        as_json=False,
    ),
    Case(
        "a flipped byte",
        "{artifact}/examples/train.parquet",
        "its bytes differ from what was made",
        "run again",
        ("run", "steps.tune.epochs=2"),
        before=_flip,
        made=True,
        kind="CorruptArtifact",
    ),
)
NEW = (
    _typed("new over a recipe", "mine/recipe.yaml", "there is a recipe already", "another name", "new", "mine"),
    _typed("new with a capital", "NAME", "'Mine' cannot name a recipe", "small letters", "new", "Mine"),
    _typed("new where a file is", "tickets", "is a file, not a folder", "another name", "new", "tickets"),
    _typed(
        "new from nothing",
        "rows.csv",
        "there is no such file",
        "check `path`",
        "new",
        "shop",
        "--from",
        "rows.csv",
        kind="DataError",
    ),
    _typed(
        "new from two files",
        "--from",
        "2 are given, and one is read",
        "a pattern in quotes",
        "new",
        "shop",
        "--from",
        "tickets.csv",
        "--from",
        "more.csv",
    ),
    _typed(
        "new from a pattern that the shell filled in",
        "luthier new",
        "unexpected extra argument",
        "put a pattern into quotes",
        "new",
        "shop",
        "--from",
        "jan.csv",
        "feb.csv",
    ),
    _typed(
        "new from a letter",
        "letter.docx",
        "something else than its ending .docx says",
        "check that it is whole",
        "new",
        "shop",
        "--from",
        "letter.docx",
        kind="DataError",
    ),
    _typed(
        "new from an empty file",
        "empty.csv",
        "is empty",
        "at least one row",
        "new",
        "shop",
        "--from",
        "empty.csv",
        kind="DataError",
    ),
    _typed(
        "new from no template",
        "--template",
        "no template 'label'",
        "'labels'",
        "new",
        "shop",
        "--template",
        "label",
        kind="UnknownName",
    ),
    _typed(
        "new with a column that is not there",
        "quarter2.csv (prompt)",
        "there is no column 'subjct'; the columns are subject, body, category",
        "did you mean 'subject'",
        "new",
        "shop",
        "--from",
        "quarter2.csv",
        "--prompt",
        r"{subjct}\n\n{body}",
        kind="DataError",
    ),
    _typed(
        "new with one column for both",
        "quarter2.csv (answer)",
        "'body' is named as both prompt and answer",
        "name another column for one of them: subject, category",
        "new",
        "shop",
        "--from",
        "quarter2.csv",
        "--prompt",
        "body",
        "--answer",
        "body",
        kind="DataError",
    ),
    _typed(
        "new with a column of no data",
        "--answer",
        "--answer names a column of your data",
        "give the data by --from",
        "new",
        "shop",
        "--answer",
        "body",
        kind="InputError",
    ),
    _typed(
        "new with an unknown model",
        "shop/recipe.yaml:5 (model)",
        "model 'smolm2' is unknown",
        "did you mean 'smollm2-1.7b-instruct' or 'smollm2-135m-instruct'",
        "new",
        "shop",
        "--model",
        "smolm2",
        kind="ModelError",
    ),
)
ROWS = "subject,body,category\n" + "".join(f"help {n},where is it {n},{'ab'[n % 2]}\n" for n in range(20))
NEW_FILES = {"mine/recipe.yaml": RECIPE, "tickets": "x", "letter.docx": "x", "empty.csv": "", "quarter2.csv": ROWS}
STORES = (
    Case(
        "store on Mars",
        "mars://rocks",
        "'mars' is no kind of place",
        "s3://bucket/prefix",
        environment={"LUTHIER_STORE": "mars://rocks"},
        kind="InputError",
    ),
    Case(
        "a file for a store",
        "{folder}/tickets.csv",
        "not a folder",
        "move it away",
        ("run",),
        environment={"LUTHIER_STORE": "{folder}/tickets.csv"},
        kind="SystemResourceError",
    ),
    Case(
        "a store below a file",
        "{folder}/tickets.csv/store",
        "not a folder",
        "move it away",
        ("run",),
        environment={"LUTHIER_STORE": "{folder}/tickets.csv/store"},
        kind="SystemResourceError",
    ),
    Case(
        "ledger of no kind",
        "LUTHIER_LEDGER",
        "does not live on 'mysql'",
        "sqlite:///FILE",
        ("run",),
        environment={"LUTHIER_LEDGER": "mysql://user:secret@host/db"},
        kind="InputError",
    ),
    Case(
        "ledger that is no address",
        "LUTHIER_LEDGER",
        "is no database URL",
        "sqlite:///FILE",
        ("run",),
        environment={"LUTHIER_LEDGER": "secret"},
        kind="InputError",
    ),
)
CASES = (*USAGE, *OVERRIDES, *BEFORE, *AFTER, *(Case(**{**vars(case), "files": NEW_FILES}) for case in NEW), *STORES)
