"""The program itself: its commands, and what happens when one of them fails."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from luthier import __version__
from luthier.cli import (
    advise,
    artifacts,
    explain,
    jobs,
    label,
    models,
    monitor,
    people,
    recipe,
    release,
    review,
    serve,
    site,
    studio,
    traces,
)
from luthier.cli.output import (
    discard_further_output,
    flush_output,
    guard_output_errors,
    prepare_output_streams,
    print_error,
    print_line,
)
from luthier.core.errors import FAULT_EXIT_CODE, InputError, Interrupted, LuthierError, SourceLocation
from luthier.core.system.process import clear_stop_requests_at_end, handle_stop_signal, set_thread_wait_policy

_ClickError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Typer carries its own click or uses the installed one, by version; this is the root of its usage errors."""

app = typer.Typer(
    name="luthier",
    help="From raw data to a tuned, measured and served language model, from one written recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe.register_commands(app)
advise.register_commands(app)
artifacts.register_commands(app)
models.register_commands(app)
explain.register_commands(app)
serve.register_commands(app)
traces.register_commands(app)
release.register_commands(app)
jobs.register_commands(app)
label.register_commands(app)
monitor.register_commands(app)
review.register_commands(app)
studio.add_to(app)
people.register_commands(app)
site.register_commands(app)


def _version(show_version: bool) -> None:
    if show_version:
        print_line(f"luthier {__version__}")
        raise typer.Exit


@app.callback()
def _luthier(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From raw data to a tuned, measured and served language model, from one written recipe."""


@cache
def _command() -> Callable[..., object]:
    """All commands with their options, made once for however many are run in one process."""
    return typer.main.get_command(app)


def run_command(arguments: list[str]) -> int:
    """Run a command; returns the exit code, having printed whatever went wrong."""
    as_json = "--json" in arguments
    outcome: object = None
    prepare_output_streams()
    _end_in_order()
    set_thread_wait_policy()
    try:
        with clear_stop_requests_at_end(), guard_output_errors() if {"--help", "-h"} & {*arguments} else nullcontext():
            outcome = _command()(arguments, prog_name="luthier", standalone_mode=False)
        flush_output()
        return outcome if isinstance(outcome, int) else 0
    except LuthierError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except _ClickError as error:
        print_error(_usage(error), as_json=as_json)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print_error(Interrupted("stopped"), as_json=as_json)
        return 130
    except BrokenPipeError:
        discard_further_output()
        return 0
    except Exception as error:  # noqa: BLE001  # the last door: whatever else escapes is our fault, and is kept
        print_error(_fault(error), as_json=as_json)
        return FAULT_EXIT_CODE


def _usage(error: Any) -> InputError:
    """What the command line's reader says, with where to look."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "luthier"
    if type(error).__name__ == "NoArgsIsHelpError":
        return InputError(
            "a command is wanted", where=SourceLocation(field=command), hint=f"`{command} --help` lists them"
        )
    message = str(error.format_message()).strip().rstrip(".").replace("Value error, ", "")
    message = message[:1].lower() + message[1:]
    hint = f"`{command} --help` shows how it is called"
    if ours := _ours(message):
        message, hint = (
            message.partition(". Did you mean")[0],
            ours,
        )  # a command that is spelled alike does something else
    if command.endswith(" new") and "extra argument" in message:
        hint = f"put a pattern into quotes, so that your shell leaves it whole: --from '2024/*.csv'; {hint}"
    return InputError(message, where=SourceLocation(field=command), hint=hint)


_OTHER_NAMES = {
    **dict.fromkeys(("train", "tune", "fit", "finetune", "fine-tune", "sft", "evaluate", "eval"), "run RECIPE"),
    **dict.fromkeys(("init", "create", "start"), "new NAME --from FILE"),
    **dict.fromkeys(("generate", "talk"), "chat RECIPE:STEP"),
    **dict.fromkeys(("infer", "inference", "apply", "classify"), "predict RECIPE:STEP FILE"),
    **dict.fromkeys(("deploy", "api"), "serve RECIPE:STEP"),
    **dict.fromkeys(("pull", "download", "fetch"), "models get NAME"),
    **dict.fromkeys(("validate", "check", "dry-run"), "plan RECIPE"),
    **dict.fromkeys(("trace", "explain"), "lineage ID"),
    **dict.fromkeys(("ui", "webui", "gui", "board", "dashboard"), "studio"),
    "judge": "rate RECIPE:STEP",
    "parts": "components ROLE",
    "watch": "retrain RECIPE",
    **dict.fromkeys(("merge", "save", "convert"), "export RECIPE:STEP --to FOLDER"),
}
"""Commands that users of other tools try, and what does the same here."""


def _ours(message: str) -> str:
    """What to type for a command that other tools have; empty for any other mistake."""
    match = re.search(r"no such command '([^']+)'", message)
    ours = _OTHER_NAMES.get(match[1].casefold()) if match else None
    return f"here it is `luthier {ours}`" if ours else ""


def _end_in_order() -> None:
    """Be ended by a kill or a closed terminal as by Ctrl-C; where hang-ups (`nohup`) or Ctrl-C (a script's `&`) are
    ignored, they stay ignored."""
    signal.signal(signal.SIGTERM, handle_stop_signal)
    for name, handler in (("SIGINT", handle_stop_signal), ("SIGHUP", _hung_up)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _hung_up(signum: int, frame: FrameType | None) -> None:
    """The terminal is closed: stop as if interrupted, and let nothing fail for want of a place to be shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    handle_stop_signal(signum)


def _fault(error: Exception) -> LuthierError:
    """A fault of Luthier's own: say so, and keep the details in a file."""
    details = "".join(traceback.format_exception(error))
    report = f"luthier {__version__}, python {sys.version}\n{' '.join(sys.argv)}\n\n{details}"
    handle, path = tempfile.mkstemp(".txt", f"luthier-fault-{time.strftime('%Y%m%d-%H%M%S')}-")  # its owner's alone
    os.close(handle)
    Path(path).write_text(report, encoding="utf-8", errors="backslashreplace")
    message = f"a fault of Luthier's own: {type(error).__name__}: {error}"
    return LuthierError(message, hint=f"the details are in {path}; please report them")
