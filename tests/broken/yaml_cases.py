"""Recipes that are not YAML, or not the YAML of a recipe."""

from __future__ import annotations

import os
from pathlib import Path

from tests.broken.case import UNREADABLE, Case, edited
from tests.tiny_models import RECIPE

QUOTES = "check indentation and quotes"
ALIASES = "luthier: 1\na: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
)


def _folder_instead(folder: Path) -> None:
    (folder / "recipe.yaml").mkdir()


def _pipe_instead(folder: Path) -> None:
    os.mkfifo(folder / "recipe.yaml")


def _unreadable_instead(folder: Path) -> None:
    (folder / "recipe.yaml").symlink_to(UNREADABLE)


CASES = (
    Case(
        "unreadable",
        "recipe.yaml",
        "cannot be read",
        "the right to read it",
        ("plan", "recipe.yaml"),
        None,
        before=_unreadable_instead,
    ),
    Case("tab", "recipe.yaml:7", "not YAML", "spaces, not tabs", recipe=edited("  data:\n    kind", "  data:\n\tkind")),
    Case("key twice", "recipe.yaml:27 (seed)", "set twice (first on line 3)", "keep one", recipe=f"{RECIPE}seed: 5\n"),
    Case("colon in text", "recipe.yaml:2", "not YAML", "quote the text", recipe=edited("name: tickets", "name: a: b")),
    Case("alias bomb", "recipe.yaml:2 (e.3.3.8.8.7)", "too large", "without aliases", recipe=ALIASES),
    Case(
        "alias of itself",
        "recipe.yaml:2 (steps.data.data.data.data.data.data.data.…)",
        "too large or too deep",
        "without aliases",
        recipe="luthier: 1\nsteps: &a {data: *a}\n",
    ),
    Case("alias of nothing", "recipe.yaml:2", "undefined alias", "quote", recipe=edited("name: tickets", "name: *no")),
    Case("open quote", "recipe.yaml:26", "a quote is opened here", "close", recipe=edited('0.0"]', "0.0]")),
    Case("open brace", "recipe.yaml:15", "opened on line 14", "close the bracket", recipe=edited("r: 4}", "r: 4")),
    Case("crooked", "recipe.yaml:15", "not YAML", QUOTES, recipe=edited("    batch_size", "   batch_size")),
    Case("at sign", "recipe.yaml:2", "'@'", "quote a value", recipe=edited("name: tickets", "name: @tickets")),
    Case("two recipes", "recipe.yaml:27", "another document", "remove the line `---`", recipe=f"{RECIPE}---\n{RECIPE}"),
    Case("a list", "recipe.yaml:1", "got a list", "luthier: 1", recipe="- luthier: 1\n- name: x\n"),
    Case("a text", "recipe.yaml:1", "got text", "luthier: 1", recipe="just words\n"),
    Case("empty", "recipe.yaml:1", "got nothing", "`luthier new`", recipe=""),
    Case("only a comment", "recipe.yaml:1", "got nothing", "luthier: 1", recipe="# nothing yet\n"),
    Case("binary", "recipe.yaml:1", "byte 0x89", "UTF-8", recipe=b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe"),
    Case("UTF-16", "recipe.yaml", "is UTF-16 text", "save it as UTF-8", recipe=RECIPE.encode("utf-16")),
    Case("UTF-16, no mark", "recipe.yaml", "is UTF-16 text", "save it as UTF-8", recipe=RECIPE.encode("utf-16-le")),
    Case(
        "Latin-1",
        "recipe.yaml:2",
        "byte 0xfc on this line",
        "save it as UTF-8",
        recipe=edited("name: tickets", "# für uns\nname: tickets").encode("latin-1"),
    ),
    Case("NUL", "recipe.yaml:2", "U+0000", "remove it", recipe=edited("name: tickets", "name: tick\0ets")),
    Case("huge", "recipe.yaml", "over 1 MiB", "not the data", recipe=f"# {'x' * (1 << 20)}\n{RECIPE}"),
    Case("deep", "recipe.yaml", "nested too deeply", "flat", recipe=f"luthier: 1\nsteps: {'[' * 3000}{']' * 3000}\n"),
    Case(
        "Python object",
        "recipe.yaml:2 (name)",
        "has the tag !!python/object/apply:os.system",
        "remove the tag",
        recipe=edited("name: tickets", "name: !!python/object/apply:os.system [ls]"),
    ),
    Case(
        "binary value",
        "recipe.yaml:2 (name)",
        "has the tag !!binary",
        "remove the tag",
        recipe=edited("name: tickets", "name: !!binary aGVsbG8="),
    ),
    Case(
        "merge key", "recipe.yaml:2", "not a plain name", "by its name", recipe=f"luthier: 1\n<<: {{}}\n{RECIPE[11:]}"
    ),
    Case(
        "a folder",
        "recipe.yaml",
        "a folder that holds no recipe.yaml",
        "the recipe's file",
        ("plan", "recipe.yaml"),
        None,
        before=_folder_instead,
    ),
    Case(
        "a pipe",
        "recipe.yaml",
        "is not a file",
        "the recipe's file",
        ("plan", "recipe.yaml"),
        None,
        before=_pipe_instead,
    ),
    Case("not there", "recipy.yaml", "no such recipe", "`luthier new NAME`", ("plan", "recipy.yaml")),
    Case("none here", "{folder}", "no recipe here", "`luthier new NAME --from FILE`", recipe=None),
    Case(
        "several here",
        "{folder}",
        "2 recipes here: a.yaml, b.yaml",
        "name one",
        recipe=None,
        files={"a.yaml": RECIPE, "b.yaml": RECIPE},
    ),
)
