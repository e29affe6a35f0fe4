"""Commands that watch a released model: monitor run, replay, show, history, test, export."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.events import format_counted_noun

monitor_app = typer.Typer(
    help="Watch a released model: run, replay, show, history, test, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Word = Annotated[
    str | None,
    typer.Argument(metavar="[RECIPE[:STEP]]", help="The recipe with a step of kind monitor; else the one here."),
]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE[:STEP]", help="With a step of kind monitor; else the one here."),
]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(monitor_app, name="monitor")
    app.command()(retrain)


def _mutter(text: str) -> None:
    typer.echo(text, err=True)


@monitor_app.command()
def replay(
    log: Annotated[
        Path | None, typer.Argument(metavar="[LOG]", help="A traffic folder or JSON lines; else the recipe's traffic.")
    ] = None,
    recipe: Recipe = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on: 2026-11-01, or so long ago: 30m, 6h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    as_json: Json = False,
) -> None:
    """Show when each alert would have fired over a past log."""
    from luthier.commands.monitor import open_monitor
    from luthier.commands.monitor import replay_alerts as replayed
    from luthier.commands.traces import parse_moment

    monitor_replay = replayed(
        open_monitor(current_workspace(), recipe),
        log,
        parse_moment(since, "--since"),
        parse_moment(until, "--until"),
        _mutter,
    )
    if as_json:
        print_json(monitor_replay.as_json())
        return
    for message in monitor_replay.messages:
        for number, line in enumerate(message.lines()):
            print_line(f"{message.at:%Y-%m-%d %H:%M:%S} {line}" if number == 0 else f"    {line}")
    at_the_end = ", ".join(monitor_replay.firing) or "none"
    many = format_counted_noun(len(monitor_replay.messages), "message")
    print_line(f"{many} over {monitor_replay.requests:,} events; firing at the end: {at_the_end}")
    if monitor_replay.unjoined:
        print_line(f"{monitor_replay.unjoined:,} pieces of feedback are about requests that the log does not hold")


@monitor_app.command()
def run(
    recipe: Word = None,
    traffic: Annotated[Path | None, typer.Option(help="The traffic folder; else the recipe's.")] = None,
    port: Annotated[int | None, typer.Option(help="Expose metrics to Prometheus on this local port.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once and exit, for a scheduler.")] = False,
) -> None:
    """Evaluate alerts on traffic until stopped; a restart continues from the same position."""
    from luthier.commands.monitor import open_monitor, watch_traffic

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    opened = open_monitor(current_workspace(), recipe)
    often = "once" if once else f"every {opened.plan.every_s:g} s"
    where = traffic or opened.traffic if opened.sites is None else ", ".join(opened.sites.site_names)
    _mutter(f"watching {where}: {format_counted_noun(len(opened.plan.rules), 'alert')}, {often}")
    for look in watch_traffic(opened, traffic, say=_mutter, port=port, once=once):
        for message in look.messages:
            print_line(message.title)
        if once:
            _mutter(f"firing now: {', '.join(look.firing) or 'none'}")


@monitor_app.command()
def show(
    recipe: Word = None,
    log: Annotated[Path | None, typer.Option(help="A traffic folder or JSON lines; else the recipe's traffic.")] = None,
    as_json: Json = False,
) -> None:
    """Show the current value of every signal and the state of every alert."""
    from luthier.commands.monitor import describe_monitor_state, open_monitor

    found = describe_monitor_state(open_monitor(current_workspace(), recipe), log, _mutter)
    if as_json:
        print_json(found)
        return
    print_table(
        ("number", "window", "value", "95 % interval", "events"),
        [
            (
                entry["number"],
                entry["window"],
                f"{entry['value']:.4g}",
                f"{entry['low']:.4g} to {entry['high']:.4g}",
                f"{entry['events']:,}",
            )
            for entry in found["numbers"]
        ],
    )
    if found["alerts"]:
        print_table(
            ("alert", "state", "when", "limit"),
            [(entry["alert"], entry["state"], entry["when"], f"{entry['limit']:.4g}") for entry in found["alerts"]],
        )
    print_line(f"{found['events']:,} events")


@monitor_app.command()
def history(
    recipe: Word = None,
    log: Annotated[Path | None, typer.Option(help="A traffic folder or JSON lines; else the recipe's traffic.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on: 2026-11-01, or so long ago: 30m, 6h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    as_json: Json = False,
) -> None:
    """Show every signal over time, and what alerts would have told."""
    from luthier.commands.monitor import describe_monitor_history, open_monitor
    from luthier.commands.traces import parse_moment

    opened = open_monitor(current_workspace(), recipe)
    moments = parse_moment(since, "--since"), parse_moment(until, "--until")
    found = describe_monitor_history(opened, log, *moments, _mutter)
    if as_json:
        print_json(found)
        return
    for entry in found["numbers"]:
        values = [point[1] for point in entry["points"]]
        if values:
            ends = f"{values[0]:.4g} to {values[-1]:.4g}, between {min(values):.4g} and {max(values):.4g}"
            print_line(f"{entry['number']} {entry['window']}: {ends}")
    for message in found["messages"]:
        print_line(f"{message['at'][:19]} {message['tells']}: {message['alert']}: {message['when']}")
    print_line(f"{found['events']:,} events")


@monitor_app.command("test")
def try_channels(
    recipe: Word = None,
    channel: Annotated[str | None, typer.Option(metavar="KIND", help="Only channels of this kind.")] = None,
    as_json: Json = False,
) -> int:
    """Send a test message to every channel."""
    from luthier.commands.monitor import open_monitor, send_test_message

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    found = list(send_test_message(open_monitor(current_workspace(), recipe), channel))
    if as_json:
        print_json({"channels": [{"channel": kind, "came": came} for kind, came in found]})
    else:
        print_table(("channel", "what came of it"), found)
    return 2 if any(came != "sent" for _, came in found) else 0


@monitor_app.command()
def export(
    what: Annotated[Literal["prometheus"], typer.Argument(metavar="prometheus", help="For whom.")],
    recipe: Word = None,
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")] = Path("prometheus"),
    as_json: Json = False,
) -> None:
    """Write the same alerts as Prometheus rules, and a Grafana dashboard."""
    from luthier.commands.monitor import open_monitor, write_prometheus_files

    written = write_prometheus_files(open_monitor(current_workspace(), recipe), to)
    if as_json:
        print_json({what: [str(path) for path in written]})
        return
    for path in written:
        print_line(f"wrote {path}")


def retrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe of the first model, with its monitor.")],
    alias: Annotated[
        str | None,
        typer.Option(
            "--release", metavar="ALIAS", help="The released name to watch; else the name of the recipe's model."
        ),
    ] = None,
    on: Annotated[list[str] | None, typer.Option(metavar="ALERT", help="Only these alerts; may be repeated.")] = None,
    traffic: Annotated[Path | None, typer.Option(help="The traffic folder; else the recipe's.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once and exit, for a scheduler.")] = False,
) -> None:
    """Watch a released model; when an alert fires, write the next recipe from feedback, run it, and release
    what passes its gate."""
    from luthier.commands.retrain import build_retrain_loop, run_retrain_loop
    from luthier.core.render import choose_renderer

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    loop = build_retrain_loop(current_workspace(), recipe, alias, on or ())
    with choose_renderer(sys.stderr, json=False) as listener:
        for line in run_retrain_loop(loop, traffic, say=_mutter, listener=listener, once=once):
            print_line(line)
            sys.stdout.flush()
