"""Print results: JSON for programs, aligned text for people, errors to standard error."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO, TextIOWrapper
from typing import Annotated, Any, TextIO

import typer

from luthier.core.errors import LuthierError, SystemResourceError
from luthier.core.files import translate_write_errors

Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def print_line(text: str) -> None:
    """Print a line of a command's result."""
    with guard_output_errors():
        sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """Print a result as JSON, in letters that the output has."""
    print_line(json.dumps(value, indent=1, ensure_ascii=not _has_all_letters(sys.stdout), default=str))


def prepare_output_streams() -> None:
    """Make standard output tolerate a closed pipe, and escape characters that its encoding lacks
    (`LC_ALL=de_DE.ISO-8859-1`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, TextIOWrapper(FileIO(os.devnull, "w"), encoding="utf-8"))
        elif isinstance(stream, TextIOWrapper) and not _has_all_letters(stream):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Send what still waits to be printed; `SystemResourceError` where it cannot be."""
    with guard_output_errors():
        sys.stdout.flush()


def discard_further_output() -> None:
    """Print nothing more: nobody reads it, or nothing can be written there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_all_letters(stream: TextIO) -> bool:
    return codecs.lookup(stream.encoding or "utf-8").name.startswith("utf")


@contextmanager
def guard_output_errors() -> Iterator[None]:
    """Turn an output's refusals into one clear `SystemResourceError`.

    Where nobody reads on (`luthier run … | head -1`), the rest is printed nowhere and the command ends with its own
    code; Rich and Typer would end it with 1, as if a gate had failed.
    """
    try:
        with translate_write_errors("standard output", "let it be written elsewhere"):
            yield
    except BrokenPipeError:
        discard_further_output()
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        discard_further_output()


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header; cells fold at the terminal's edge. Row by row where words would be torn to pieces."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    cells = [[str(cell) for cell in row] for row in rows]
    view = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        view.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in cells:
        view.add_row(*row)
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=False)
    if Measurement.get(console, console.options.update(width=10_000), view).minimum > console.width:
        print_line("\n".join(_one_below_another(header, cells)))
        return
    with guard_output_errors():
        console.print(view)


def _one_below_another(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A row's first cell, and below it the others that say something, each with its column."""
    wide = max(map(len, header))
    for first, *others in rows:
        yield first
        yield from (f"  {name:{wide}}  {cell}" for name, cell in zip(header[1:], others, strict=True) if cell)


def print_error(error: LuthierError, *, as_json: bool) -> None:
    """Print an error: the documented JSON shape on standard output, or a sentence on standard error; there, too, where
    nothing can be written to the other."""
    if as_json:
        try:
            print_json(error.as_json())
            flush_output()
            return
        except SystemResourceError:
            discard_further_output()
    sys.stderr.write(f"error: {error}\n")
    try:
        flush_output()
    except SystemResourceError:
        discard_further_output()  # else Python would say so once more, and end with a code of its own


def format_seconds(value: float | None) -> str:
    """A duration as a person says it."""
    if value is None:
        return "?"
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def format_bytes(value: float | None) -> str:
    """Bytes as a person says them."""
    if value is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def format_count(value: int | None) -> str:
    """A count with thousands apart."""
    return "?" if value is None else f"{value:,}"
