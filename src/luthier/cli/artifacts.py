"""Commands that look at what was made: show, runs, lineage, compare, chat, export, store."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.cli.output import Json, format_bytes, guard_output_errors, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.events import format_counted_noun

if TYPE_CHECKING:
    from luthier.commands.rate import RatingSession
    from luthier.recipe.locate import CommandTarget

Word = Annotated[
    str | None,
    typer.Argument(metavar="[RECIPE[:STEP]|RUN[:STEP]|ID]", help="A recipe, a run, a step, or a digest's beginning."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE …]", help="The recipe's overrides, as they were given to `luthier run`."),
]
store_app = typer.Typer(help="The artifact store: list, verify, gc.", no_args_is_help=True, rich_markup_mode=None)


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(show)
    app.command()(runs)
    app.command()(lineage)
    app.command()(correct)
    app.command()(compare)
    app.command()(chat)
    app.command()(rate)
    app.command()(export)
    app.add_typer(store_app, name="store")


def show(
    what: Word = None,
    overrides: Overrides = None,
    path: Annotated[bool, typer.Option("--path", help="Print only the artifact's folder.")] = False,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="List the rows that a data set left out: reason, place, first words.")
    ] = False,
    rendered: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Print so many training rows as the model sees them, trained tokens marked: of a step that tunes, or "
            "of the data that one reads.",
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="With --rendered: a line a token, with its id.")] = False,
    as_json: Json = False,
) -> None:
    """Show a recipe's steps, a run, or one artifact: what made it, from what, and what it holds."""
    from luthier.commands.show import describe_dropped_rows, describe_target
    from luthier.recipe.locate import CommandTarget

    target = CommandTarget.read(current_workspace(), what, overrides)
    if rendered is not None or ids:
        _show_rendered(target, rendered, ids=ids, as_json=as_json)
        return
    shown = describe_dropped_rows(target) if dropped else describe_target(target)
    if path:
        print_line(shown.path)
    elif as_json:
        print_json(shown.facts)
    else:
        for line in shown.lines():
            print_line(line)


def _show_rendered(target: CommandTarget, number: int | None, *, ids: bool, as_json: bool) -> None:
    """Print training rows as the model sees them; what is trained on is green on a terminal."""
    from luthier.commands.show import show_training_rows
    from luthier.core.errors import InputError, SourceLocation

    if number is None:
        hint = "add --rendered 3"
        raise InputError("--ids shows the tokens of rendered rows", where=SourceLocation(field="--ids"), hint=hint)
    shown = show_training_rows(target, number, ids=ids)
    if as_json:
        print_json(shown.facts)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    with guard_output_errors():
        for piece in shown.pieces:
            console.print(Text(piece.text, style="bold green" if piece.trained else ""), end="")


def runs(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="Only runs of this recipe; else those of all recipes here and in the folders below.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List the runs of recipes with their overrides, and the jobs that they handed to schedulers; a run's id stands for
    its recipe in every command."""
    from luthier.recipe.launches import list_launches
    from luthier.recipe.locate import list_runs, run_to_facts

    found = list_runs(current_workspace(), recipe, limit=limit)
    launches = list_launches(current_workspace(), recipe, limit=limit)
    if as_json:
        jobs = [launch.model_dump(mode="json") for launch in launches]
        print_json({"runs": [run_to_facts(run) for run in found], "launches": jobs})
        return
    rows = [
        (run.id, run.recipe, f"{run.started_at:%Y-%m-%d %H:%M}", run.state, shlex.join(run.overrides or []))
        for run in found
    ]
    print_table(("run", "recipe", "began (UTC)", "state", "overrides"), rows)
    if launches:
        print_table(
            ("job", "executor", "step", "run", "submitted (UTC)", "state"),
            [
                (
                    entry.job,
                    entry.executor,
                    entry.step,
                    entry.run or "",
                    f"{entry.submitted_at:%Y-%m-%d %H:%M}",
                    entry.state,
                )
                for entry in launches
            ],
        )
    print_line("next: luthier show RUN, or luthier report RUN" if found else "no run is recorded here")


def lineage(
    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="An example's id, its beginning, or FILE:LINE.")],
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE|RUN", help="The recipe, or a run of one; else the one here that has the row."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print an example's lineage: file and line, edits, split, the models trained on it, and models' answers to it."""
    from luthier.commands.lineage import trace_example
    from luthier.recipe.locate import CommandTarget

    lineage = trace_example(
        example, CommandTarget.read(current_workspace(), recipe, overrides, f"lineage {example} --recipe {{}}")
    )
    if as_json:
        print_json(lineage.facts)
        return
    for line in lineage.lines():
        print_line(line)


def correct(
    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="An example's id, its beginning, or FILE:LINE.")],
    recipe: Annotated[str | None, typer.Option(metavar="RECIPE", help="The recipe; else the one here.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="TEXT", help="What its answer says from now on.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave the row out.")] = False,
    restore: Annotated[bool, typer.Option("--restore", help="Take back what was decided about it.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, as the row's story says it.")] = "",
    new_class: Annotated[bool, typer.Option("--new-class", help="The answer is a class that no row has yet.")] = False,
    as_json: Json = False,
) -> None:
    """Correct a row's answer or leave it out; the decision is kept beside the recipe, with who and when."""
    from luthier.commands.correct import decide
    from luthier.core.system.process import get_user_name
    from luthier.recipe.locate import CommandTarget

    target = CommandTarget(current_workspace(), recipe)
    decided_row = decide(
        example,
        target,
        answer=answer,
        drop=drop,
        restore=restore,
        reason=reason,
        by=get_user_name(),
        new_class=new_class,
    )
    if as_json:
        print_json(
            {"file": str(decided_row.path), **decided_row.correction.model_dump(mode="json", exclude_defaults=True)}
        )
        return
    print_line(f"written to {decided_row.path}: {decided_row.correction.action} {decided_row.correction.row}")
    print_line("next: luthier run makes the data set with it")


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A recipe, RECIPE:STEP, run, digest, or predictions JSONL. PATH=VALUE overrides the recipe before it.",
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The same kind of thing.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[C …]", help="Further ones, each against A.")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="For two files; several times.")] = None,
    as_json: Json = False,
) -> None:
    """Compare evaluations or files of predictions (paired, on the same rows; the first with each), or two data sets."""
    from luthier.recipe.compare import compare_targets
    from luthier.recipe.locate import CommandTarget

    way_comparison = compare_targets(
        CommandTarget.read_all(current_workspace(), [first, second, *(more or ())], "compare"), metric or ()
    )
    if as_json:
        print_json(way_comparison.facts)
        return
    for line in way_comparison.lines():
        print_line(line)


def chat(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE:STEP|RUN:STEP|MODEL]", help="A tuned step, or a base model."),
    ] = None,
    overrides: Overrides = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Send one prompt and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="System message; else the one the model was tuned with.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Chat with a model: one prompt, or line by line."""
    from luthier.commands.chat import open_chat
    from luthier.recipe.locate import CommandTarget

    target = CommandTarget.read(current_workspace(), model, overrides, "chat {}")
    session = open_chat(target, system=system, max_tokens=max_tokens, temperature=temperature)
    for warning in session.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if prompt is not None or as_json:
        question = prompt if prompt is not None else sys.stdin.read().strip()
        answer = session.ask(question)
        print_json({"model": session.name, "prompt": question, "answer": answer}) if as_json else print_line(answer)
        return
    for note in session.notes:
        sys.stderr.write(note + "\n")
    _converse(session.stream_answer)


def _converse(answer_in_pieces: Callable[[str], Iterator[str]]) -> None:
    """Read lines and print answers as they come, until the end of input."""
    terminal = sys.stdin.isatty()
    while True:
        if terminal:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            continue
        for piece in answer_in_pieces(line.strip()):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print_line("")


def rate(
    what: Annotated[str, typer.Argument(metavar="RECIPE:STEP", help="A step of kind `human_eval`.")],
    name: Annotated[str | None, typer.Option("--as", help="Your name; required if several people rate.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the items that you have not rated yet to this file (CSV or JSON lines).")
    ] = None,
    read: Annotated[Path | None, typer.Option("--from", help="Read ratings from this file.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Where all ratings are written; else where the recipe reads them.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only print the progress of each annotator, and whether to stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rate models' answers blind, one at a time or through files. The recipe's step `human_ratings` takes them
    up."""
    from luthier.commands.rate import open_rating_session
    from luthier.recipe.locate import CommandTarget

    with open_rating_session(CommandTarget(current_workspace(), what)) as session:
        _rate(session, name, sheet, read, to, status=status, as_json=as_json)


def _rate(
    session: RatingSession,
    name: str | None,
    sheet: Path | None,
    read: Path | None,
    to: Path | None,
    *,
    status: bool,
    as_json: bool,
) -> None:
    from luthier.commands.rate import run_rating_session

    if read is not None:
        sys.stderr.write(f"{format_counted_noun(session.take(read), 'judgment')} taken from {read}\n")
    if sheet is not None:
        items = session.sheet(session.judge(name), sheet)
        print_json({"sheet": str(sheet), "items": items}) if as_json else print_line(
            f"wrote {sheet}: {format_counted_noun(items, 'item')} to judge"
        )
        return
    if read is None and not status and not as_json:
        run_rating_session(session, session.judge(name), _asked, print_line)
    progress = session.status()
    if not status:
        progress["file"] = str(session.save(to))
    if as_json:
        print_json(progress)
        return
    for who, far in progress["annotators"].items():
        print_line(f"{who:<16} {far['judged']} of {far['of']} judged")
    for line in (progress.get("stop"), f"judgments: {progress['file']}" if "file" in progress else None):
        if line:
            print_line(line)


def _asked(prompt: str) -> str | None:
    """A line from the terminal or a pipe; None at the end."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    line = sys.stdin.readline()
    return line if line else None


def export(
    what: Annotated[
        str, typer.Argument(metavar="RECIPE:STEP|RUN:STEP|MODEL", help="A data set, a model, or a base model's name.")
    ],
    overrides: Overrides = None,
    *,
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="A model: hf (the default), adapter, merged or gguf; a data set: jsonl (the default), or another "
            "kind that `luthier components exporter` lists; a recipe: record, a technical record after Annex IV of the "
            "EU AI Act.",
        ),
    ] = None,
    quant: Annotated[Literal["f16", "q8_0", "q4_0"], typer.Option(help="Precision of a GGUF file's matrices.")] = "f16",
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Merge an adapter of a quantized base into the dequantized weights.")
    ] = False,
    base: Annotated[
        bool | None,
        typer.Option(
            "--base/--no-base",
            help="Write the base model's weights into an adapter's folder, as base/; by default where the base has no "
            "id on the Hugging Face hub.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a data set or a model in a format that other tools read."""
    from luthier.commands.export import export_artifact
    from luthier.recipe.locate import CommandTarget

    options = ["--to", str(to), *(["--format", form] if form else [])]
    target = CommandTarget.read(current_workspace(), what, overrides, f"export {{}} {shlex.join(options)}")
    export_result = export_artifact(target, to, form, quant=quant, dequantize=dequantize, with_base=base)
    if as_json:
        print_json({"to": str(to), "files": export_result.files, "notes": export_result.notes})
        return
    for note in export_result.notes:
        print_line(f"  · {note}")
    print_line(f"wrote {to}: {', '.join(export_result.files)}")


@store_app.command("list")
def store_list(as_json: Json = False) -> None:
    """List the artifacts of the store here."""
    from luthier.commands.retention import list_artifacts

    rows = list_artifacts(current_workspace())
    if as_json:
        print_json({"artifacts": rows})
        return
    print_table(
        ("artifact", "kind", "makes", "size", "made"),
        [(r["artifact"][:12], r["kind"], r["makes"], format_bytes(r["bytes"]), r["made"]) for r in rows],
    )


@store_app.command("verify")
def store_verify(as_json: Json = False) -> int:
    """Verify the checksum of every file of every artifact."""
    from luthier.commands.retention import verify_stores

    faults, checked = verify_stores(current_workspace())
    if as_json:
        print_json({"faults": faults, "artifacts": checked})
    else:
        for fault in faults:
            print_line(fault)
        print_line(f"{checked} artifacts: {'all whole' if not faults else f'{len(faults)} faults'}")
    return 2 if faults else 0


@store_app.command("gc")
def store_gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove artifacts that no recipe in this folder needs any more, and what finished jobs wrote.

    Of a store behind a URL, artifacts are kept, since recipes elsewhere may need them.
    """
    from luthier.commands.retention import collect_garbage

    collection_result = collect_garbage(current_workspace(), dry_run=dry_run)
    removed = [*collection_result.artifacts, *collection_result.works]
    if as_json:
        print_json({"removed": removed, "tasks": collection_result.tasks, "bytes": collection_result.bytes})
        return
    jobs = (
        f" and the records of {format_counted_noun(len(collection_result.tasks), 'job')}"
        if collection_result.tasks
        else ""
    )
    what = f"{len(removed)} artifacts{jobs}, {format_bytes(collection_result.bytes)}"
    print_line(f"{'would remove' if dry_run else 'removed'} {what}")
