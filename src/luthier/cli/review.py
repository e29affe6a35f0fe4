"""Commands that review production output: create queues, fill them, show figures, write the next recipe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.events import format_counted_noun
from luthier.core.system.process import get_user_name

review_app = typer.Typer(
    help="Review production output: create, fill, status, results, next, close.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Queue = Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="Its id or name; else the only open one.")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(review_app, name="review")


@review_app.command()
def create(  # noqa: PLR0913, PLR0917  # one option for each rule
    name: Annotated[str, typer.Argument(metavar="NAME", help="How people call the queue.")],
    project: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Whose requests; else those of the only recipe here.")
    ] = None,
    chance: Annotated[float, typer.Option(min=0, max=1, help="Draw so many of all requests: 0.02 is 2 %.")] = 0.0,
    where: Annotated[str, typer.Option(help="Draw all of these, for example: latency_s > 5.")] = "",
    thumbs_down: Annotated[bool, typer.Option("--thumbs-down", help="Draw all that users disliked.")] = False,
    low_confidence: Annotated[float, typer.Option(min=0, max=1, help="Draw all below this confidence.")] = 0.0,
    shadow: Annotated[bool, typer.Option("--shadow", help="Draw all that a shadow answered differently.")] = False,
    alerts: Annotated[bool, typer.Option("--alerts", help="Draw the requests that alerts name.")] = False,
    only: Annotated[str, typer.Option(help="Of these requests alone: model = 'support@prod'.")] = "",
    since: Annotated[str | None, typer.Option(help="From then on: 2026-11-01, or 7d (the default).")] = None,
    as_json: Json = False,
) -> None:
    """Create a queue of requests to review, and fill it."""
    from luthier.commands.review.fill import fill_review_queue
    from luthier.commands.review.queues import build_settings, create_review_queue, find_review_project
    from luthier.commands.traces import parse_moment

    workspace = current_workspace()
    settings = build_settings(
        where=where, chance=chance, low_confidence=low_confidence, thumbs_down=thumbs_down, shadow=shadow,
        alerts=alerts, only=only, since=parse_moment(since, "--since") or datetime.now(UTC) - timedelta(days=7),
    )  # fmt: skip
    found = find_review_project(workspace, project)
    with workspace.open_ledger() as ledger:
        queue = create_review_queue(ledger, name, settings, project=found, by=get_user_name())
        filled = fill_review_queue(ledger, workspace, queue, _mutter)
    if as_json:
        print_json({"id": queue.id, "project": found, **filled._asdict()})
        return
    print_line(f"{queue.id}: drew {filled.drawn:,} of {format_counted_noun(filled.meant, 'request')} of {found}")


@review_app.command()
def fill(queue: Queue = None, as_json: Json = False) -> None:
    """Draw the requests that came since; without a queue, fill all open ones."""
    from luthier.commands.review.queues import find_review_queue, list_review_queues
    from luthier.commands.review.verdicts import refresh_review_queue

    workspace, results = current_workspace(), dict[str, dict[str, int]]()
    with workspace.open_ledger() as ledger:
        meant = [find_review_queue(ledger, queue)] if queue else list_review_queues(ledger, only_open=True)
        for review_queue in meant:
            results[review_queue.id] = refresh_review_queue(ledger, workspace, review_queue, _mutter)._asdict()
    if as_json:
        print_json(results)
        return
    for name, found in results.items():
        print_line(f"{name}: {found['added']:,} new, {found['drawn']:,} of {found['meant']:,} requests drawn in all")


@review_app.command()
def status(as_json: Json = False) -> None:
    """List the queues, how they are filled and how many requests wait."""
    from luthier.commands.review.queues import list_review_queues

    with current_workspace().open_ledger() as ledger:
        queues = list_review_queues(ledger)
    if as_json:
        print_json([queue.as_json() for queue in queues])
        return
    rows = [
        (
            queue.id,
            queue.name,
            queue.project,
            queue.annotation.state,
            str(queue.progress.waiting),
            str(queue.progress.done),
        )
        for queue in queues
    ]
    print_table(("id", "name", "project", "state", "waiting", "reviewed"), rows)


@review_app.command()
def results(queue: Queue = None, as_json: Json = False) -> None:
    """Show accuracy and failure shares of all requests, with 95 % intervals, by release and slice."""
    from luthier.commands.review.queues import find_review_queue
    from luthier.commands.review.results import compute_review_results, format_result_lines

    with current_workspace().open_ledger() as ledger:
        review_results = compute_review_results(ledger, find_review_queue(ledger, queue))
    if as_json:
        print_json(review_results.as_json())
        return
    for line in format_result_lines(review_results):
        print_line(line)


@review_app.command("next")
def next_recipe(queue: Queue = None, as_json: Json = False) -> None:
    """Write the next recipe from the corrections; a part of the failures becomes a standing test."""
    from luthier.commands.review.queues import find_review_queue
    from luthier.commands.review.rounds import write_next_round

    workspace = current_workspace()
    with workspace.open_ledger() as ledger:
        written = write_next_round(ledger, workspace, find_review_queue(ledger, queue))
    path = workspace.shorten(written.path)
    if as_json:
        print_json({"recipe": str(path), "rows": written.rows, "standing_test": written.standing})
        return
    held = f", {format_counted_noun(written.standing, 'failure')} held out as a standing test"
    print_line(f"wrote {path}: {format_counted_noun(written.rows, 'row')} of what people said{held}")
    print_line(f"luthier run {path}")


@review_app.command()
def close(queue: Queue = None, again: Annotated[bool, typer.Option("--again", help="Open it again.")] = False) -> None:
    """Close a queue: it is filled no more, and its verdicts stay."""
    from luthier.commands.review.queues import close_review_queue, find_review_queue

    with current_workspace().open_ledger() as ledger:
        review_queue = find_review_queue(ledger, queue)
        close_review_queue(ledger, review_queue.id, again=again)
    print_line(f"{review_queue.name}: {'open' if again else 'closed'}")


def _mutter(text: str) -> None:
    typer.echo(text, err=True)
