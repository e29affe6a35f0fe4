"""Writes a new recipe: one that fits the user's data, with the reason for each choice, one converted from another
tool's file, or one from a template.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple

from luthier.commands.advise import MODEL
from luthier.core.errors import InputError, LuthierError, RecipeError, SourceLocation, UnknownName, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.core.files import is_env_var, translate_write_errors, write_atomically
from luthier.core.system.net import find_plain_secret, is_database_url
from luthier.models.catalog import CATALOG
from luthier.recipe.errors import NAME_PATTERN
from luthier.recipe.schema import HEADER, SCHEMA_FILE, Recipe, recipe_schema
from luthier.recipe.workspace import LEDGER_VARIABLE, Workspace
from luthier.recipe.yaml import parse_yaml

if TYPE_CHECKING:
    from luthier.auto.advice.predict import TechniqueKind
    from luthier.commands.next_recipe import ServedModel
    from luthier.commands.recipe_text import BaseModelChoice
    from luthier.commands.release import ReleasedRecipe
    from luthier.data.suggest.profile import SourceProfile
    from luthier.data.suggest.propose import RecipeProposal, Want

_TEMPLATES = files("luthier.commands") / "templates"
_ANNOTATIONS = "annotations:"
"""Prefix of an annotation project as a source."""
_PROVIDERS = ("openai:", "together:", "fireworks:")
"""Prefixes of a provider's fine-tuning job as a source."""
_SQLITE = b"SQLite format 3\0"
"""First bytes of an SQLite database."""


@dataclass(frozen=True, kw_only=True)
class NewRecipe:
    """A recipe that was written, and what was decided for its owner."""

    path: Path
    decisions: dict[str, str] = field(default_factory=dict)
    """Reasons, by dotted path within the step that prepares the data; or options of another tool that were not
    converted."""
    notes: tuple[str, ...] = ()
    """Number of rows read, and what the reader decided and left out."""


class ProposalChoices(NamedTuple):
    """The user's changes to a proposal."""

    without: tuple[str, ...] = ()
    """Operators that are left out, by kind."""
    technique: TechniqueKind | Literal["auto"] = "auto"
    """`auto`: the first choice of the advice, of those that tune the base model where one is named."""
    want: Want | None = None


class _Text(NamedTuple):
    """A recipe's text, and notes on it."""

    recipe: str
    decisions: dict[str, str] = {}  # noqa: RUF012 - a tuple's default, never written to
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """Files that it reads, to be written next to it."""
    technique: str = ""
    """The proposed technique, if any."""


class _Columns(NamedTuple):
    """The requested columns, each by name or in a template."""

    prompt: str | None
    answer: str | None


def require_single_source(sources: Sequence[str]) -> str | None:
    """The one thing that a recipe is made from, if any; `InputError` for several."""
    if len(sources) > 1:
        hint = "name their folder, or a pattern in quotes ('2024/*.csv'); a step `mix` joins data of other columns"
        raise InputError(f"{len(sources)} are given, and one is read", where=SourceLocation(field="--from"), hint=hint)
    return sources[0] if sources else None


_ELSEWHERE = "name a folder elsewhere: `luthier new PATH/NAME`"


def write_recipe(  # noqa: PLR0913  # the options of a command
    workspace: Workspace,
    name: str,
    source: Path | str | None,
    *,
    template: str | None,
    model: str | None,
    table: str | None = None,
    where: str | None = None,
    prompt: str | None = None,
    answer: str | None = None,
    choices: ProposalChoices | None = None,
) -> NewRecipe:
    """Write `NAME/recipe.yaml` and its schema; an existing recipe is never touched.

    `source` is a file, folder, pattern or URL of files, or the URL of a database, of which `table` is read; or
    `traces`, the traffic of the recipe here (or a folder of traffic), of which `where` chooses. From traffic, the
    recipe goes on from the model that answered (`write_followup_recipe`), unless none is known, or a base `model`,
    columns or `choices` are named. Or it is `annotations:PROJECT`, what people answered in an annotation project; or
    `openai:JOB` (`together:`, `fireworks:`), a finished job of a provider of fine-tuning. `prompt` and `answer` are
    columns of it, or templates of columns in braces, in which a backslash and an n are a new line; else they are
    chosen. `choices` change what is proposed for rows.
    """
    if source is not None and template is not None:
        hint = "leave one of them out: a recipe made from your data needs no template"
        raise InputError("--from and --template were both given", where=SourceLocation(field="--template"), hint=hint)
    if isinstance(source, str) and source.startswith((_ANNOTATIONS, *_PROVIDERS)):
        if any(entry is not None for entry in (table, where, prompt, answer)):
            what = f"--table, --where, --prompt and --answer do not go with {source.partition(':')[0]}"
            raise InputError(what, hint="leave them out: the source says what is learnt from what")
        return _write_from_project(workspace, name, source, model, choices or ProposalChoices())
    traffic = _traffic(workspace, source)
    served = _served(workspace, traffic) if traffic is not None and model is None else []
    is_changed = choices is not None and choices != ProposalChoices()
    is_plain = table is None and prompt is None and answer is None and not is_changed
    if traffic is not None and is_plain and any(served_model.made for served_model in served):
        return _write_next(name, traffic, served, where)
    _refuse_explain_without_recipe(source)
    folder = _folder(workspace, name)
    base = _Base(workspace, model, folder, choices or ProposalChoices())
    model = _from_there(workspace, model, folder)
    source = _as_url(workspace, source)
    is_url = isinstance(source, str) and ("://" in source or is_env_var(source))
    if table is not None and not is_url:
        hint = "leave it out, or give the URL of a database: --from sqlite:///file.db"
        raise InputError("--table belongs to a database", where=SourceLocation(field="--table"), hint=hint)
    if where is not None and traffic is None:
        hint = "leave it out, or give --from traces"
        raise InputError("--where chooses among traces", where=SourceLocation(field="--where"), hint=hint)
    is_tool = traffic is None and str(source).lower().endswith((".yaml", ".yml"))
    if is_changed and (source is None or is_tool):
        hint = "leave them out, or give your data by --from"
        raise InputError("--without, --technique and --want change what is proposed for data", hint=hint)
    columns = _columns(prompt, answer, source, is_tool=is_tool)
    if traffic is not None:
        text = _from_traces(traffic, where, base, columns, served if model is None else None)
    elif source is None:
        text = _Text(_from_template(template or "labels", folder.name, model or MODEL))
    elif is_url and (table is not None or is_database_url(str(source))):
        text = _from_database(str(source), table, base, columns)
    elif is_tool:
        text = _from_tool(workspace.resolve(source), folder, model)
    else:
        text = _from_file(str(source), base, columns)
    return _write(workspace, folder, text)


def _refuse_explain_without_recipe(source: Path | str | None) -> None:
    if source == "explain":
        hint = "name the recipe whose step `influence` found rows that hurt: --base-recipe RECIPE"
        raise InputError("--from explain mends a recipe", where=SourceLocation(field="--base-recipe"), hint=hint)


def _write_from_project(
    workspace: Workspace, name: str, source: str, model: str | None, choices: ProposalChoices
) -> NewRecipe:
    """Write a recipe from an annotation project, or from a finished job of a provider with the job's rows."""
    folder = _folder(workspace, name)
    if source.startswith(_ANNOTATIONS):
        base = _Base(workspace, model, folder, choices)
        return _write(workspace, folder, _from_annotations(source.removeprefix(_ANNOTATIONS), base))
    from luthier.recipe.importers.hosted_job import import_hosted_job

    if choices != ProposalChoices():
        hint = "leave them out: technique and rows are those of the job"
        raise InputError("--without, --technique and --want change what is proposed for data", hint=hint)
    with TemporaryDirectory() as downloads:
        named = _from_there(workspace, model, folder)
        home_recipe = import_hosted_job(source, folder.name, named, MODEL, Path(downloads))
        return _write(
            workspace,
            folder,
            _Text(home_recipe.text, home_recipe.account.sentences(), home_recipe.notes, home_recipe.files),
        )


def _write(workspace: Workspace, folder: Path, made: _Text) -> NewRecipe:
    """Write a recipe, its schema and the files that come with it into a folder."""
    path = folder / "recipe.yaml"
    with _standing(folder):
        Recipe.of(parse_yaml(made.recipe, str(path)), workspace.with_folder(folder))
        for file in made.files:
            if (folder / file.name).exists():
                where = SourceLocation(file=str(folder / file.name))
                raise InputError("is there already; it was not touched", where=where, hint="take another name")
    with translate_write_errors(folder, _ELSEWHERE):
        for file in made.files:
            shutil.move(file, folder / file.name)
    schema = json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / SCHEMA_FILE, schema.encode(), _ELSEWHERE)
    write_atomically(path, f"{HEADER}\n{made.recipe}".encode(), _ELSEWHERE)
    return NewRecipe(path=path, decisions=made.decisions, notes=made.notes)


def write_followup_recipe(
    workspace: Workspace,
    name: str,
    source: str | None,
    after: str,
    *,
    where: str | None = None,
    others: tuple[str | None, ...] = (),
) -> NewRecipe:
    """Write `NAME.yaml` beside a recipe: the next one, from what people said of the model that it released or served
    (`source` is `traces`), or from the rows that its steps `influence` found to hurt (`explain`).

    `after` is the recipe, or one of its steps: `RECIPE:STEP`.
    """
    from luthier.commands.next_recipe import list_served_models
    from luthier.commands.release import find_recipe_alias, find_released_recipe
    from luthier.commands.traces import require_traffic_folder, resolve_traffic_folder
    from luthier.traces.retention import has_traffic

    if source == "explain":
        if any(others) or where is not None:
            raise InputError(
                "a recipe is mended as it stands", where=SourceLocation(field="--from"), hint="leave other options out"
            )
        return _write_mended(workspace, name, after)
    if source != "traces" or any(others):
        hint = "give --from traces, and leave --template, --model and --table out: all else is as in that recipe"
        raise InputError(
            "--base-recipe goes on from a recipe by its traffic", where=SourceLocation(field="--base-recipe"), hint=hint
        )
    file, step = _recipe_and_step(workspace, after)
    traffic = resolve_traffic_folder(workspace, file.absolute())
    every = list_served_models(workspace, traffic) if has_traffic(traffic) else []
    served = [served_model for served_model in every if served_model.made and _is_meant(served_model.made, file, step)]
    if served:
        return _write_next(name, traffic, served[:1], where)
    released = find_released_recipe(find_recipe_alias(file, workspace), file, workspace)
    explanation = f"{released.alias} is {released.recipe.name}:{released.step}, which this one is compared with"
    return _write_beside(
        name, released, require_traffic_folder(workspace, file.absolute()), where, {"compare_with": explanation}
    )


def _write_mended(workspace: Workspace, name: str, after: str) -> NewRecipe:
    """Write `NAME.yaml` beside a recipe: the same, with the remedies of what its steps `influence` found."""
    from luthier.commands.projects.remedies import build_remedies
    from luthier.recipe.edit import set_value

    file, step = _recipe_and_step(workspace, after)
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"{name!r} cannot name a recipe", where=SourceLocation(field="NAME"), hint="such as mended")
    path = file.with_name(f"{name}.yaml")
    if path.exists():
        raise InputError(
            "is there already; it was not touched", where=SourceLocation(file=str(path)), hint="take another name"
        )
    text, decisions = build_remedies(workspace, file, step)
    write_atomically(path, set_value(text, str(file), ("name",), name).encode(), _ELSEWHERE)
    return NewRecipe(path=path, decisions=decisions)


def _recipe_and_step(workspace: Workspace, word: str) -> tuple[Path, str | None]:
    """Parse the argument of `--base-recipe`."""
    file, colon, step = word.rpartition(":")
    named, step_name = (file, step) if colon and not workspace.resolve(word).exists() else (word, None)
    path = workspace.find_recipe(named)
    if not path.is_file():
        raise RecipeError("there is no such recipe", where=SourceLocation(file=str(path)), hint="check --base-recipe")
    return path, step_name


def _is_meant(made: ReleasedRecipe, file: Path, step: str | None) -> bool:
    """Return whether a served model is that of a recipe, and of the named step, if any."""
    return Path(made.recipe.file).resolve() == file.resolve() and step in (None, made.step)


def _write_next(name: str, traffic: Path, served: list[ServedModel], where: str | None) -> NewRecipe:
    """The next recipe after the model with the most recent requests, of those that a recipe here makes."""
    chosen = next(served_model for served_model in served if served_model.made)
    released = chosen.made
    assert released is not None, "it was chosen for that"
    here = f"{released.recipe.file}:{released.step}"
    explanation = (
        f"goes on from {here}, which answered as {chosen.name} ({format_counted_noun(chosen.requests, 'request')})"
    )
    if not chosen.is_current:
        explanation += f"; the recipe, its data or Luthier changed since, so `luthier run` makes {released.step} anew"
    decisions = {"model": explanation}
    if len(served) > 1:
        every = "; ".join(served_model.line() for served_model in served)
        decisions["chosen"] = (
            f"the model with the most recent request among {len(served)}: {every}. "
            "--base-recipe RECIPE:STEP chooses another, --model BASE starts from a base model"
        )
    return _write_beside(name, released, traffic, where, decisions)


def _write_beside(
    name: str, released: ReleasedRecipe, traffic: Path, where: str | None, decisions: dict[str, str]
) -> NewRecipe:
    """Write the next recipe next to the one that made a model."""
    from luthier.commands.next_recipe import NEW_CLASSES, write_next_recipe_files

    if not re.fullmatch(NAME_PATTERN, name):
        stands = f"it is written beside {released.recipe.file}, whose data and store it shares"
        raise InputError(
            f"{name!r} cannot name a recipe", where=SourceLocation(field="NAME"), hint=f"such as support-2; {stands}"
        )
    data = released.recipe.recipe_dir / f"{name}.jsonl"
    if data.exists():
        raise InputError(
            "is there already; it was not touched", where=SourceLocation(file=str(data)), hint="take another name"
        )
    written = write_next_recipe_files(name, released, traffic, datetime.now(UTC), where=where, from_model=True)
    decisions = {
        **decisions,
        "rows": f"the {format_counted_noun(written.kept_rows, 'row')} of that recipe stay; what people said makes "
        f"{format_counted_noun(written.rows, 'row')} more",
    }
    if not written.goes_on:
        decisions["start"] = "tuning starts from the base model: what this technique learns cannot be tuned further"
    if written.strange:
        decisions["classes"] = f"{NEW_CLASSES}: {', '.join(written.strange)}"
    return NewRecipe(path=written.path, decisions=decisions)


def _columns(prompt: str | None, answer: str | None, source: Path | str | None, *, is_tool: bool) -> _Columns:
    """Return the requested columns; `InputError` where there is no data with columns."""
    for option, text in (("--prompt", prompt), ("--answer", answer)):
        if text is not None and (source is None or is_tool):
            what = f"{option} names a column of your data"
            hint = "leave it out: the file names its own columns" if is_tool else "give the data by --from"
            raise InputError(what, where=SourceLocation(field=option), hint=hint)
        if text is not None and not text.strip():
            raise InputError("expected a column, got nothing", where=SourceLocation(field=option), hint="name a column")
    return _Columns(*(text and text.replace("\\n", "\n") for text in (prompt, answer)))


def _as_url(workspace: Workspace, source: Path | str | None) -> Path | str | None:
    """Return the URL of an SQLite file; anything else unchanged."""
    if source is None or "://" in str(source):
        return source
    try:
        with workspace.resolve(source).open("rb") as file:
            return f"sqlite:///{Path(source).as_posix()}" if file.read(len(_SQLITE)) == _SQLITE else source
    except OSError:
        return source


@contextmanager
def _standing(folder: Path) -> Iterator[None]:
    """Paths that lead out of a folder lead somewhere only once it is there; it goes again when something is wrong."""
    new = not folder.exists()
    with translate_write_errors(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except LuthierError:
        if new:
            folder.rmdir()
        raise


def _folder(workspace: Workspace, name: str) -> Path:
    folder = workspace.resolve(name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", folder.name):
        hint = "use small letters, digits, - and _; it names the recipe and its folder"
        raise InputError(f"{folder.name!r} cannot name a recipe", where=SourceLocation(field="NAME"), hint=hint)
    if (folder / "recipe.yaml").exists():
        where = SourceLocation(file=str(folder / "recipe.yaml"))
        raise InputError("there is a recipe already; it was not touched", where=where, hint="take another name")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, not a folder", where=SourceLocation(file=str(folder)), hint="take another name")
    return folder


def template_names() -> list[str]:
    """The templates that a recipe can begin from."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _TEMPLATES.iterdir() if entry.name.endswith(".yaml"))


def _from_template(template: str, name: str, model: str) -> str:
    if template not in template_names():
        hint = did_you_mean(template, template_names())
        raise UnknownName(f"there is no template {template!r}", where=SourceLocation(field="--template"), hint=hint)
    text = (_TEMPLATES / f"{template}.yaml").read_text(encoding="utf-8")
    return text.replace("{name}", name).replace("{model}", model)


class _Base(NamedTuple):
    """The base model that is asked for, by the word that was given if one was, the folder of the recipe, and what else
    is wanted otherwise than it is proposed."""

    workspace: Workspace
    named: str | None
    folder: Path
    choices: ProposalChoices

    @property
    def word(self) -> str:
        """The base model by its word."""
        return self.named or MODEL

    def fitting(self, profile: SourceProfile) -> BaseModelChoice:
        """How a recipe for rows of a profile names it: with a chat template that has a place for tools where the rows
        have some and its own is known to have none."""
        from luthier.commands.recipe_text import BaseModelChoice

        named = _from_there(self.workspace, self.word, self.folder) or self.word
        if not (profile.with_tools or profile.called) or not (fitting := self._lacking(profile)):
            return BaseModelChoice(named)
        template = fitting[0]
        lacks = f"the chat template of {self.word} has no place for tools"
        if template is None:
            why = f"{lacks}, and none that ships goes with its tokenizer: give a Jinja file, or take another base model"
            return BaseModelChoice(named, why=why)
        return BaseModelChoice(
            named, template, f"{lacks}; this one has, and takes its place wherever the model is read"
        )

    def _lacking(self, profile: SourceProfile) -> list[str | None]:
        """The templates that ship and fit, or None for none, where its own lacks a place; nothing where it has one or
        is not known yet."""
        from luthier.models.chat_template import list_fitting_templates
        from luthier.models.cost import get_planned_tool_support
        from luthier.recipe.models import predict_base_spec

        expected = predict_base_spec(self.workspace, self.word)
        tool_slots = get_planned_tool_support(expected)
        if tool_slots is None or (
            (tool_slots.offers or not profile.with_tools) and (tool_slots.calls or not profile.called)
        ):
            return []
        return [*list_fitting_templates(expected.tokenizer)] or [None]


def _from_file(source: str, base: _Base, columns: _Columns) -> _Text:
    """From a file, a folder, a pattern, or a URL."""
    from luthier.data.suggest.propose import propose_recipe

    path = source if "://" in source else str(base.workspace.resolve(source))
    shown = _shown(base.workspace, source, base.folder)
    recipe_proposal = propose_recipe(
        path, shown=shown, prompt=columns.prompt, answer=columns.answer, want=base.choices.want
    )  # fmt: skip
    return _proposed(recipe_proposal, base)


def _proposed(proposal: RecipeProposal, base: _Base) -> _Text:
    """The recipe that is proposed for some data."""
    from luthier.commands.recipe_text import (
        choose_encoder_steps,
        choose_technique,
        choose_transcriber,
        explain_technique,
        rank_recipe_techniques,
        render_recipe,
        why_plain_first,
    )
    from luthier.data.suggest.propose import exclude_operators

    model_choice = base.fitting(proposal.profile)
    transcriber = choose_transcriber(proposal) if base.named is None else None
    if transcriber is not None:
        model_choice = transcriber
        proposal = proposal.model_copy(update={"metrics": ["wer", "cer"], "rules": ["wer < base"]})
    elif proposal.profile.media and proposal.task == "label" and choose_encoder_steps(proposal, model_choice):
        proposal = proposal.model_copy(update={"rules": [*proposal.rules, "macro_f1 > blind"]})
    proposal = exclude_operators(proposal, base.choices.without)
    ranking = rank_recipe_techniques(proposal, model_choice.model)
    is_asked = base.choices.technique != "auto"
    wants_network = base.named is not None or bool(proposal.profile.media)
    technique = base.choices.technique if is_asked else choose_technique(ranking, network=wants_network)
    proposal = proposal.model_copy(update={"technique": technique})
    left_out = {f"ops.{kind}" for kind in base.choices.without}
    text = render_recipe(proposal, base.folder.name, model_choice, ranking)
    reasons = {path: why for path, why in proposal.reasons.items() if path not in left_out}
    why = "it is asked for" if is_asked else explain_technique(technique, ranking)
    plain = why_plain_first(proposal, ranking) if technique != "plain" else ""
    reasons["technique"] = f"{technique}: {why}" + (f"; try `plain` first: {plain}" if plain else "")
    if technique != "plain" and model_choice.why:
        reasons["chat_template" if transcriber is None else "model"] = model_choice.why
    return _Text(
        text, reasons, (proposal.profile.size_told, *dict.fromkeys(proposal.profile.notes)), technique=technique
    )


def _from_annotations(project: str, base: _Base) -> _Text:
    """From what people answered in an annotation project up to now."""
    from luthier.data.sources.annotations import Annotations
    from luthier.data.suggest.propose import propose_recipe_from_source

    written = {"kind": "annotations", "project": project, "until": datetime.now(UTC).isoformat()}
    if base.workspace.database:
        written["ledger"] = f"${LEDGER_VARIABLE}"
    elif base.workspace.store:
        written["ledger"] = base.workspace.ledger_url
    source = Annotations.model_validate(written)
    proposal = propose_recipe_from_source(source, base.workspace.folder.absolute(), project, written)
    return _proposed(proposal, base)


def _from_database(url: str, table: str | None, base: _Base, columns: _Columns) -> _Text:
    from luthier.data.columns.layouts import Layout
    from luthier.data.database.propose import propose_table_recipe

    layout = Layout(prompt=columns.prompt, answer=columns.answer)
    return _proposed(
        propose_table_recipe(
            url, table, base.workspace.folder.absolute(), base.folder.absolute(), layout, base.choices.want
        ),
        base,
    )


def _traffic(workspace: Workspace, source: Path | str | None) -> Path | None:
    """The folder of traffic that is meant: by the word `traces`, or by itself."""
    from luthier.commands.traces import require_traffic_folder
    from luthier.traces.retention import has_traffic

    if source is None or "://" in str(source):
        return None
    if str(source) == "traces" and not workspace.resolve("traces").exists():
        return require_traffic_folder(workspace)
    return path if has_traffic(path := workspace.resolve(source)) else None


def _from_traces(
    traffic: Path,
    where: str | None,
    base: _Base,
    columns: _Columns,
    served: list[ServedModel] | None,
) -> _Text:
    """From the rows of traffic alone, over a base model; `served` are models that no recipe here makes, None where a
    base model was named."""
    from luthier.data.columns.layouts import Layout
    from luthier.data.suggest.propose import propose_trace_recipe
    from luthier.traces.filter import TraceFilter

    if where is not None:
        TraceFilter(where)
    layout = Layout(prompt=columns.prompt, answer=columns.answer)
    proposal = propose_trace_recipe(
        traffic, _shown(base.workspace, str(traffic.absolute()), base.folder), where, requested_layout=layout
    )
    text = _proposed(proposal, base)
    note = _base_note(proposal.profile.rows, base.word if text.technique != "plain" else None, served)
    return text._replace(recipe=f"# {note}\n{text.recipe}", notes=(note, *text.notes))


def _base_note(rows: int, model: str | None, served: list[ServedModel] | None) -> str:
    """That a recipe starts from a base model, if from one, on how many rows, and why."""
    from luthier.data.checks.few_rows import FEW_ROWS

    start = f"starts from the base model {model}" if model is not None else "trains a classifier without a base model"
    note = f"{start} on {format_counted_noun(rows, 'row')} of traffic alone"
    if rows < FEW_ROWS:
        note += f", which is little: a new model wants {FEW_ROWS} or more"
    if served is None:
        return f"{note} (--model)"
    if not served:
        return f"{note}. No served model is known: no request here names the model that answered it"
    every = "; ".join(served_model.line() for served_model in served)
    return f"{note}. No recipe here makes a model that answered: {every}. --base-recipe RECIPE:STEP goes on from one"


def _served(workspace: Workspace, traffic: Path) -> list[ServedModel]:
    """Models that answered the requests of some traffic."""
    from luthier.commands.next_recipe import list_served_models

    return list_served_models(workspace, traffic)


def _from_there(workspace: Workspace, model: str | None, folder: Path) -> str | None:
    """A base model's folder or file as the recipe says it, from its own folder; a name as it is."""
    if model is None or model in CATALOG or not workspace.resolve(model).exists():
        return model
    return _shown(workspace, model, folder)


def _shown(workspace: Workspace, source: str, folder: Path) -> str:
    """A path as the recipe says it: from its own folder; a URL as it is, unless it holds a password."""
    if "://" not in source:
        return Path(os.path.relpath(workspace.resolve(source).absolute(), folder.absolute())).as_posix()
    if secret := find_plain_secret(source):
        hint = "give it the usual way (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        where = SourceLocation(field="--from")
        raise InputError(f"the URL holds a secret ({secret}), which a recipe may not", where=where, hint=hint)
    return source


def _from_tool(source: Path, folder: Path, model: str | None) -> _Text:
    """From a YAML file of axolotl, TRL or LLaMA-Factory."""
    from luthier.recipe.importers.translate import translate_config
    from luthier.recipe.yaml import read_yaml

    if model is not None:
        hint = "leave it out, and change `model` in the recipe if you want another"
        raise InputError("the file names its own model", where=SourceLocation(field="--model"), hint=hint)
    if not source.exists():
        raise InputError("there is no such file", where=SourceLocation(file=str(source)), hint="check --from")
    translation = translate_config(read_yaml(source).data, source, folder)
    return _Text(translation.text, translation.account.sentences())
