"""Commands about traffic: traces (list, show, import, export), feedback."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from luthier.cli.output import Json, format_count, format_seconds, print_json, print_line
from luthier.cli.workspace import current_workspace

traces_app = typer.Typer(
    help="Requests to served models: list, show, import, export.", no_args_is_help=True, rich_markup_mode=None
)
TrafficLocation = Annotated[
    Path | None, typer.Option("--in", metavar="RECIPE|FOLDER", help="Whose traffic; else that of the recipe here.")
]
Condition = Annotated[
    str | None, typer.Option("--where", help="Only those, for example: rating < 0 and model = 'support@prod'.")
]
Since = Annotated[str | None, typer.Option(help="From then on: 2026-11-01, or so long ago: 30m, 6h, 7d.")]
Until = Annotated[str | None, typer.Option(help="Before then.")]
_WIDTH = 90
"""Characters of an answer that a list shows."""


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(traces_app, name="traces")
    app.command()(feedback)


@traces_app.command("list")
def traces_list(
    location: TrafficLocation = None,
    where: Condition = None,
    since: Since = None,
    until: Until = None,
    most: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many, the latest.")] = 20,
    as_json: Json = False,
) -> None:
    """List the latest requests, the latest last."""
    from luthier.commands import traces

    with_feedbacks = traces.list_traces(current_workspace(), location, where, since, until, most)
    if as_json:
        print_json([traces.trace_to_json(entry) for entry in with_feedbacks])
        return
    for entry in with_feedbacks:
        trace = entry.trace
        answer = " ".join((trace.answer.content if trace.answer else trace.error).split())
        parts = [
            trace.id,
            f"{trace.timestamp:%m-%d %H:%M:%S}",
            trace.model,
            trace.finish_reason,
            format_seconds(trace.latency_s),
        ]
        print_line("  ".join([*parts, traces.format_feedback_summary(entry.feedback)]).rstrip())
        print_line(f"    {answer if len(answer) <= _WIDTH else answer[:_WIDTH] + '…'}")


@traces_app.command("show")
def traces_show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id that whoever asked was given.")],
    location: TrafficLocation = None,
    as_json: Json = False,
) -> None:
    """Show one request: messages, response, latency and feedback."""
    from luthier.commands import traces

    entry = traces.get_trace_by_id(current_workspace(), location, id)
    if as_json:
        print_json(traces.trace_to_json(entry))
        return
    for line in traces.format_trace_lines(entry):
        print_line(line)


@traces_app.command("import")
def traces_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines of any tool, or OTLP's JSON.")],
    model: Annotated[str, typer.Option(help="The model's name where a line has none.")] = "unknown",
    location: TrafficLocation = None,
    as_json: Json = False,
) -> None:
    """Import a log of another tool; importing it again adds nothing."""
    from luthier.commands import traces

    taken = traces.import_trace_log(current_workspace(), location, file, model)
    if as_json:
        print_json({"records": taken})
        return
    print_line(f"took in {format_count(taken)} records" if taken else "took in nothing: all of it is here already")


@traces_app.command("export")
def traces_export(
    to: Annotated[str, typer.Argument(metavar="FILE|URL", help="A .jsonl file, or http://HOST:4318/v1/traces.")],
    form: Annotated[
        Literal["jsonl", "otlp"] | None,
        typer.Option("--format", help="Of a file: our records (the default), or OTLP's JSON lines."),
    ] = None,
    location: TrafficLocation = None,
    where: Condition = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Export requests as JSON lines or OpenTelemetry spans, or send them to a collector."""
    from luthier.commands import traces

    given = traces.export_traces(current_workspace(), location, to, form, (where, since, until))
    if as_json:
        print_json({"traces": given})
        return
    print_line(f"gave out {format_count(given)} traces to {to}")


def feedback(  # noqa: PLR0913, PLR0917  # one option for each thing that can be said
    id: Annotated[str, typer.Argument(metavar="ID", help="The request's id; `luthier traces list` shows them.")],
    up: Annotated[bool | None, typer.Option("--up/--down", help="A thumb.")] = None,
    rating: Annotated[float | None, typer.Option(min=-1, max=1, help="From -1 (bad) to 1 (good).")] = None,
    label: Annotated[str | None, typer.Option(help="The true class.")] = None,
    correction: Annotated[str | None, typer.Option(help="What the answer should have been.")] = None,
    comment: Annotated[str, typer.Option(help="Anything else.")] = "",
    new_class: Annotated[
        bool, typer.Option("--new-class", help="The label is a class that the model does not know yet.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who says it; of one person the last counts.")] = "",
    location: TrafficLocation = None,
    as_json: Json = False,
) -> None:
    """Record feedback on an answer: a rating, a label, a correction or a comment."""
    from luthier.commands import traces
    from luthier.traces.feedback import FeedbackBody

    thumb = None if up is None else ("up" if up else "down")
    feedback_body = FeedbackBody.from_fields(
        id=id,
        thumb=thumb,
        rating=rating,
        label=label,
        correction=correction,
        comment=comment,
        user=by,
        new_class=new_class,
    )
    record = traces.record_feedback(
        current_workspace(), location, feedback_body.feedback(datetime.now(UTC)), new_class=new_class
    )
    if as_json:
        print_json(record.model_dump(mode="json", exclude_unset=True))
        return
    print_line(f"{id}: {traces.format_feedback_summary([record])}")
