"""Writing a recipe for somebody: one that fits their data, with the reason for each choice, one that does what another
tuner's file asks for, or one from a template."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.addresses import is_database, secret_in_clear
from luthier.core.counted import counted
from luthier.core.errors import InputError, LuthierError, UnknownName, Where, did_you_mean
from luthier.core.files import write_aside, writing
from luthier.core.paths import is_variable
from luthier.flow.recipe import Recipe
from luthier.flow.schema import HEADER, SCHEMA_FILE, recipe_schema
from luthier.flow.source_text import parse_yaml
from luthier.flow.wording import NAME_PATTERN
from luthier.models.catalog import CATALOG

if TYPE_CHECKING:
    from luthier.data.intake.propose import Base, Proposal
    from luthier.data.profile import Profile

MODEL = "smollm2-135m-instruct"
"""The base model when none is named."""
_TEMPLATES = files("luthier.flow") / "templates"
_SQLITE = b"SQLite format 3\0"
"""What a database of SQLite begins with."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A recipe that was written, and what was decided for its owner."""

    path: Path
    decisions: dict[str, str] = field(default_factory=dict)
    """Why, by dotted path within the step that prepares the data; or which option of another tool was not taken."""
    notes: tuple[str, ...] = ()
    """How many rows were seen, and what their reader decided and left out."""


class _Text(NamedTuple):
    """A recipe's text, and what is told of it."""

    recipe: str
    decisions: dict[str, str] = {}  # noqa: RUF012 - a tuple's default, never written to
    notes: tuple[str, ...] = ()


class _Columns(NamedTuple):
    """The columns that are asked for, each by its name or in a template."""

    prompt: str | None
    answer: str | None


def only_source(sources: Sequence[str]) -> str | None:
    """The one thing that a recipe is made from, if any; `InputError` for several."""
    if len(sources) > 1:
        remedy = "name their folder, or a pattern in quotes ('2024/*.csv'); a step `mix` joins data of other columns"
        raise InputError(f"{len(sources)} are given, and one is read", where=Where(field="--from"), remedy=remedy)
    return sources[0] if sources else None


_ELSEWHERE = "name a folder elsewhere: `luthier new PATH/NAME`"


def write_recipe(
    name: str,
    source: Path | str | None,
    *,
    template: str | None,
    model: str | None,
    table: str | None = None,
    where: str | None = None,
    prompt: str | None = None,
    answer: str | None = None,
) -> Written:
    """Write `NAME/recipe.yaml` and its schema; an existing recipe is never touched.

    `source` is a file, folder, pattern or URL of files, or the URL of a database, of which `table` is read; or
    `traces`, the traffic of the recipe here (or a folder of traffic), of which `where` chooses. `prompt` and `answer`
    are columns of it, or templates of columns in braces, in which a backslash and an n are a new line; else they are
    chosen.
    """
    if source is not None and template is not None:
        remedy = "leave one of them out: a recipe made from your data needs no template"
        raise InputError("--from and --template were both given", where=Where(field="--template"), remedy=remedy)
    folder = _folder(name)
    path = folder / "recipe.yaml"
    base = _Base(model or MODEL, folder)
    model = _from_there(model, folder)
    source = _as_url(source)
    is_url = isinstance(source, str) and ("://" in source or is_variable(source))
    if table is not None and not is_url:
        remedy = "leave it out, or give the URL of a database: --from sqlite:///file.db"
        raise InputError("--table belongs to a database", where=Where(field="--table"), remedy=remedy)
    traffic = _traffic(source)
    if where is not None and traffic is None:
        remedy = "leave it out, or give --from traces"
        raise InputError("--where chooses among traces", where=Where(field="--where"), remedy=remedy)
    is_tool = traffic is None and str(source).lower().endswith((".yaml", ".yml"))
    columns = _columns(prompt, answer, source, is_tool=is_tool)
    if traffic is not None:
        made = _from_traces(traffic, where, folder, base, columns)
    elif source is None:
        made = _Text(_from_template(template or "labels", folder.name, model or MODEL))
    elif is_url and (table is not None or is_database(str(source))):
        made = _from_database(str(source), table, folder, base, columns)
    elif is_tool:
        made = _from_tool(Path(source), folder, model)
    else:
        made = _from_file(str(source), folder, base, columns)
    with _standing(folder):
        Recipe.of(parse_yaml(made.recipe, str(path)), folder)
    schema = json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    write_aside(folder / SCHEMA_FILE, schema.encode(), _ELSEWHERE)
    write_aside(path, f"{HEADER}\n{made.recipe}".encode(), _ELSEWHERE)
    return Written(path=path, decisions=made.decisions, notes=made.notes)


def write_after(name: str, source: str | None, after: Path, *, others: tuple[str | None, ...] = ()) -> Written:
    """Write `NAME.yaml` beside a recipe: the next one, from what people said of the model that it released."""
    from luthier.flow.next_recipe import NEW_CLASSES, write_next
    from luthier.flow.released import find_released, only_alias
    from luthier.flow.traffic import kept_folder

    if source != "traces" or any(others):
        remedy = "give --from traces, and leave the other options out: all else is as in that recipe"
        raise InputError("--after goes on from a recipe by its traffic", where=Where(field="--after"), remedy=remedy)
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"{name!r} cannot name a recipe", where=Where(field="NAME"), remedy="such as support-2")
    released = find_released(only_alias(after), after)
    path, rows, strange = write_next(name, released, kept_folder(after), datetime.now(UTC))
    told = f"{released.alias} is {released.recipe.name}:{released.step}, which this one is held against"
    decisions = {"against": told, "rows": f"people's words make {counted(rows, 'row')}"}
    if strange:
        decisions["classes"] = f"{NEW_CLASSES}: {', '.join(strange)}"
    return Written(path=path, decisions=decisions)


def _columns(prompt: str | None, answer: str | None, source: Path | str | None, *, is_tool: bool) -> _Columns:
    """The columns that are asked for; `InputError` where there is no data that has columns."""
    for option, text in (("--prompt", prompt), ("--answer", answer)):
        if text is not None and (source is None or is_tool):
            what = f"{option} names a column of your data"
            remedy = "leave it out: the file names its own columns" if is_tool else "give the data by --from"
            raise InputError(what, where=Where(field=option), remedy=remedy)
        if text is not None and not text.strip():
            raise InputError("wanted a column, got nothing", where=Where(field=option), remedy="name a column")
    return _Columns(*(text and text.replace("\\n", "\n") for text in (prompt, answer)))


def _as_url(source: Path | str | None) -> Path | str | None:
    """A file that is a database of SQLite's, as the URL of it; anything else as it is."""
    if source is None or "://" in str(source):
        return source
    try:
        with Path(source).open("rb") as file:
            return f"sqlite:///{Path(source).as_posix()}" if file.read(len(_SQLITE)) == _SQLITE else source
    except OSError:
        return source


@contextmanager
def _standing(folder: Path) -> Iterator[None]:
    """Paths that lead out of a folder lead somewhere only once it is there; it goes again when something is wrong."""
    new = not folder.exists()
    with writing(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except LuthierError:
        if new:
            folder.rmdir()
        raise


def _folder(name: str) -> Path:
    folder = Path(name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", folder.name):
        remedy = "use small letters, digits, - and _; it names the recipe and its folder"
        raise InputError(f"{folder.name!r} cannot name a recipe", where=Where(field="NAME"), remedy=remedy)
    if (folder / "recipe.yaml").exists():
        where = Where(file=str(folder / "recipe.yaml"))
        raise InputError("there is a recipe already; it was not touched", where=where, remedy="take another name")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, not a folder", where=Where(file=str(folder)), remedy="take another name")
    return folder


def template_names() -> list[str]:
    """The templates that a recipe can begin from."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _TEMPLATES.iterdir() if entry.name.endswith(".yaml"))


def _from_template(template: str, name: str, model: str) -> str:
    if template not in template_names():
        remedy = did_you_mean(template, template_names())
        raise UnknownName(f"there is no template {template!r}", where=Where(field="--template"), remedy=remedy)
    text = (_TEMPLATES / f"{template}.yaml").read_text(encoding="utf-8")
    return text.replace("{name}", name).replace("{model}", model)


class _Base(NamedTuple):
    """The base model that is asked for, by the word that was given, and the folder of the recipe."""

    word: str
    folder: Path

    def fitting(self, profile: Profile) -> Base:
        """How a recipe for rows of a profile names it: with a chat template that has a place for tools where the rows
        have some and its own is known to have none."""
        from luthier.data.intake.propose import Base

        named = _from_there(self.word, self.folder) or self.word
        if not (profile.with_tools or profile.called) or not (fitting := self._lacking(profile)):
            return Base(named)
        template = fitting[0]
        lacks = f"the chat template of {self.word} has no place for tools"
        if template is None:
            why = f"{lacks}, and none that ships goes with its tokenizer: give a Jinja file, or take another base model"
            return Base(named, why=why)
        return Base(named, template, f"{lacks}; this one has, and takes its place wherever the model is read")

    def _lacking(self, profile: Profile) -> list[str | None]:
        """The templates that ship and fit, or None for none, where its own lacks a place; nothing where it has one or
        is not known yet."""
        from luthier.flow.base_models import known_base
        from luthier.models.chat_template import fitting_templates
        from luthier.models.foresight import outlined_places

        expected = known_base(self.word)
        places = outlined_places(expected)
        if places is None or ((places.offers or not profile.with_tools) and (places.calls or not profile.called)):
            return []
        return [*fitting_templates(expected.tokenizer)] or [None]


def _from_file(source: str, folder: Path, base: _Base, columns: _Columns) -> _Text:
    """From a file, a folder, a pattern, or a URL."""
    from luthier.data.intake.propose import propose

    return _proposed(propose(source, shown=_shown(source, folder), prompt=columns.prompt, answer=columns.answer), base)


def _proposed(proposal: Proposal, base: _Base) -> _Text:
    """The recipe that is proposed for some data."""
    from luthier.data.intake.propose import render_recipe

    found = base.fitting(proposal.profile)
    text = render_recipe(proposal, base.folder.name, found)
    reasons = {**proposal.reasons, **({"chat_template": found.why} if found.why else {})}
    return _Text(text, reasons, (proposal.profile.size_told, *dict.fromkeys(proposal.profile.notes)))


def _from_database(url: str, table: str | None, folder: Path, base: _Base, columns: _Columns) -> _Text:
    from luthier.data.database.propose import propose_table
    from luthier.data.intake.layouts import Layout

    wanted = Layout(prompt=columns.prompt, answer=columns.answer)
    return _proposed(propose_table(url, table, Path.cwd(), folder.absolute(), wanted), base)


def _traffic(source: Path | str | None) -> Path | None:
    """The folder of traffic that is meant: by the word `traces`, or by itself."""
    from luthier.flow.traffic import kept_folder
    from luthier.traffic.place import is_traffic

    if source is None or "://" in str(source):
        return None
    if str(source) == "traces" and not Path("traces").exists():
        return kept_folder()
    return Path(source) if is_traffic(Path(source)) else None


def _from_traces(traffic: Path, where: str | None, folder: Path, base: _Base, columns: _Columns) -> _Text:
    from luthier.data.intake.from_traces import propose_traces
    from luthier.data.intake.layouts import Layout
    from luthier.traffic.where import Where as Condition

    if where is not None:
        Condition(where)
    wanted = Layout(prompt=columns.prompt, answer=columns.answer)
    return _proposed(propose_traces(traffic, _shown(str(traffic), folder), where, wanted=wanted), base)


def _from_there(model: str | None, folder: Path) -> str | None:
    """A base model's folder or file as the recipe says it, from its own folder; a name as it is."""
    if model is None or model in CATALOG or not Path(model).exists():
        return model
    return _shown(model, folder)


def _shown(source: str, folder: Path) -> str:
    """A path as the recipe says it: from its own folder; a URL as it is, unless it holds a password."""
    if "://" not in source:
        return Path(os.path.relpath(Path(source).absolute(), folder.absolute())).as_posix()
    if secret := secret_in_clear(source):
        remedy = "give it the usual way (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        where = Where(field="--from")
        raise InputError(f"the URL holds a secret ({secret}), which a recipe may not", where=where, remedy=remedy)
    return source


def _from_tool(source: Path, folder: Path, model: str | None) -> _Text:
    """From a YAML file of axolotl, TRL or LLaMA-Factory."""
    from luthier.flow.foreign.translate import translate
    from luthier.flow.source_text import read_yaml

    if model is not None:
        remedy = "leave it out, and change `model` in the recipe if you want another"
        raise InputError("the file names its own model", where=Where(field="--model"), remedy=remedy)
    made = translate(read_yaml(source).data, source, folder)
    return _Text(made.text, made.account.sentences())
