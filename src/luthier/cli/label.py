"""Commands about labeling projects: label list, create, measure, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.system.process import get_user_name

label_app = typer.Typer(
    help="Labeling projects, which people answer in the studio: list, create, measure, export, import.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Id = Annotated[str, typer.Argument(metavar="PROJECT", help="A project's id, as `label list` prints it.")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(label_app, name="label")


@label_app.command("list")
def label_list(as_json: Json = False) -> None:
    """List the labeling projects, with how far they are."""
    from luthier.annotation.project import list_projects
    from luthier.commands.labeling.measure import count_progress

    with current_workspace().open_ledger() as ledger:
        rows = [
            {"id": project.id, "name": project.name, "state": project.state, **count_progress(ledger, project.id)}
            for project in list_projects(ledger, purpose="labeling")
        ]
    if as_json:
        print_json(rows)
        return
    names = ("id", "name", "state", "waiting", "done", "flagged", "answers")
    print_table(names, [[row[name] for name in names] for row in rows])


@label_app.command("create")
def label_create(  # noqa: PLR0913, PLR0917  # the options of a command
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the project is called.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="A file of rows, a folder or zip of pictures or sounds, or RECIPE:STEP with rows that are made.",
        ),
    ],
    ask: Annotated[
        str, typer.Option(help="The kind of question: choice, choices, spans, pair, rating, text, …")
    ] = "choice",
    labels: Annotated[list[str] | None, typer.Option("--label", help="A label; give it again for each.")] = None,
    guidelines: Annotated[Path | None, typer.Option(help="A file with the guidelines.")] = None,
    text: Annotated[str, typer.Option(help="The column that is shown.")] = "",
    gold: Annotated[str, typer.Option(help="A column with known answers, which check people.")] = "",
    proposal: Annotated[str, typer.Option(help="A column with what a model proposes.")] = "",
    overlap: Annotated[int, typer.Option(min=1, help="How many people answer each item.")] = 1,
    as_json: Json = False,
) -> None:
    """Make a labeling project; people answer it in the studio, under Label."""
    from luthier.commands.labeling.create import create_labeling_project, make_settings, open_rows

    workspace = current_workspace()
    guideline_text = "" if guidelines is None else workspace.resolve(guidelines).read_text(encoding="utf-8")
    settings = make_settings(
        ask, labels or [], guidelines=guideline_text, overlap=overlap, gold_share=0.1 if gold else 0.0
    )
    with workspace.open_ledger() as ledger:
        rows = open_rows(workspace, ledger, source, settings, text=text, gold=gold, proposal=proposal)
        project, count = create_labeling_project(ledger, name, rows, by=get_user_name())
    if as_json:
        print_json({"id": project.id, "name": project.name, "items": count})
    else:
        print_line(
            f"{project.id}: {project.name}, {count:,} items; people answer them in `luthier studio`, under Label"
        )


@label_app.command("measure")
def label_measure(project: Id, as_json: Json = False) -> None:
    """Measure agreement, people's pace and drift, the influence of proposals, and what more labels would bring."""
    from luthier.commands.labeling.measure import format_measures, measure_project, measure_slowly, measures_to_json

    with current_workspace().open_ledger() as ledger:
        measures, slow = measure_project(ledger, project), measure_slowly(ledger, project)
    if as_json:
        print_json(measures_to_json(measures, slow))
        return
    for line in format_measures(measures, slow):
        print_line(line)


@label_app.command("order")
def label_order(
    project: Id,
    by: Annotated[str, typer.Option(help="The selector: mmr, uncertainty, k_center, random.")] = "mmr",
    as_json: Json = False,
) -> None:
    """Let the items come first whose labels teach most; the studio does this by itself as answers come."""
    from luthier.commands.labeling.order import order_items
    from luthier.data.selector import Selector
    from luthier.metrics.files import parse_component_spec

    with current_workspace().open_ledger() as ledger:
        count = order_items(ledger, project, parse_component_spec(Selector, by))
    print_json({"items": count}) if as_json else print_line(f"{count:,} items come first")


@label_app.command("export")
def label_export(
    project: Id,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: an item with its answers each.")],
) -> None:
    """Write all items with their answers as JSON lines."""
    from luthier.commands.labeling.create import export_items

    workspace = current_workspace()
    with workspace.open_ledger() as ledger:
        print_line(f"{export_items(ledger, project, workspace.resolve(file)):,} items")


@label_app.command("import")
def label_import(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the project is called here.")],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH …", help="The tool's configuration and export, or a folder with them.")
    ],
    as_json: Json = False,
) -> None:
    """Take in a project of Label Studio, Argilla or doccano: questions, items, answers and annotators."""
    from luthier.commands.labeling.foreign import describe_import, import_project

    workspace = current_workspace()
    with workspace.open_ledger() as ledger:
        found = [workspace.resolve(path) for path in paths]
        project, read, kept = import_project(ledger, name, found, by=get_user_name())
    if as_json:
        print_json({"id": project.id, "items": len(read.items), "answers": kept, "notes": read.notes})
        return
    for line in (f"{project.id}: {describe_import(read, kept)}", *read.notes):
        print_line(line)
