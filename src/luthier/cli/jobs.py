"""Commands about fine-tuning jobs that clients sent to `serve`: jobs list, show, cancel."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table

jobs_app = typer.Typer(
    help="Fine-tuning jobs that clients sent to `serve`: list, show, cancel.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Id = Annotated[str, typer.Argument(metavar="JOB", help="A job's id: ftjob-…")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("list")
def jobs_list(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 20, as_json: Json = False
) -> None:
    """List the latest jobs of all keys."""
    from luthier.commands.jobs.command import list_latest_jobs

    rows = list_latest_jobs(count)
    if as_json:
        print_json(rows)
        return
    names = ("id", "status", "model", "method", "key", "made", "fine_tuned_model")
    print_table(names, [[row[name] or "" for name in names] for row in rows])


@jobs_app.command("show")
def jobs_show(job: Id, as_json: Json = False) -> None:
    """Show one job: its request, its recipe and its events."""
    from luthier.commands.jobs.command import describe_job, format_job_lines

    found = describe_job(job)
    if as_json:
        print_json(found)
        return
    for line in format_job_lines(found):
        print_line(line)


@jobs_app.command("cancel")
def jobs_cancel(job: Id, as_json: Json = False) -> None:
    """Cancel a job and end its process."""
    from luthier.commands.jobs.command import cancel_job

    found = cancel_job(job)
    print_json(found) if as_json else print_line(f"{job} is cancelled")
