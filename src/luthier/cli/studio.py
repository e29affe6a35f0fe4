"""The command that opens the studio."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.output import Json, print_line
from luthier.core.errors import InputError, SourceLocation

if TYPE_CHECKING:
    from luthier.studio.server import StudioAddress


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(studio)


def studio(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where your projects are, or shall be; else this folder.")
    ] = Path(),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8100,
    host: Annotated[str, typer.Option(help="An address of this machine that only it reaches.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Open the studio: projects, recipes, runs and data in a browser. Prints a link that opens it once."""
    from luthier.recipe.workspace import Workspace
    from luthier.serve.server import ServerSettings
    from luthier.studio.server import run_studio

    if not folder.is_dir():
        raise InputError("is not a folder", where=SourceLocation(file=str(folder)), hint=f"mkdir {folder}")
    workspace = Workspace.open(folder.resolve())
    run_studio(workspace, ServerSettings(host=host, port=port), lambda address: _tell(address, as_json=as_json))


def _tell(address: StudioAddress, *, as_json: bool) -> None:
    """Where it listens, at once, also to a pipe."""
    facts = {"url": address.url, "link": address.link}
    print_line(
        json.dumps(facts) if as_json else f"open {address.link}\nThe link opens the studio once; Ctrl-C stops it."
    )
    sys.stdout.flush()
