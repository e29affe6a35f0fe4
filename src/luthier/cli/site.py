"""Commands of a site that takes part in federations: site init, serve, approve, log, flower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.errors import InputError, SourceLocation

site_app = typer.Typer(
    help="Take part in federations with rows that stay here: init, serve, approve, log, flower.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's folder: keys, policy and log.")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(site_app, name="site")


@site_app.command("init")
def site_init(  # noqa: PLR0913, PLR0917  # the options of a command
    folder: Folder,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the coordinator calls this site.")],
    coordinator: Annotated[
        Path | None, typer.Option(metavar="CARD", help="The coordinator's card.json; left out for the coordinator.")
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="RECIPE", help="The site's own recipe.")] = "recipe.yaml",
    data: Annotated[str, typer.Option(metavar="STEP", help="The step that prepares the rows.")] = "data",
    share: Annotated[str | None, typer.Option(metavar="FOLDER", help="The folder with the messages.")] = None,
    http: Annotated[str | None, typer.Option(metavar="URL", help="Where the coordinator listens.")] = None,
    flower: Annotated[
        str | None, typer.Option(metavar="SOCKET", help="The Unix socket for the Flower app beside this site.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make keys and a policy; without --coordinator, the keys of a coordinator alone."""
    from luthier.commands.site import create_keys, create_site

    workspace = current_workspace()
    if coordinator is None:
        card = create_keys(workspace.resolve(folder), name)
    else:
        ways = {"folder": share, "http": http, "flower": flower}
        given = {kind: value for kind, value in ways.items() if value is not None}
        if len(given) != 1:
            where = SourceLocation(field="--share")
            hint = "--share FOLDER, --http URL or --flower SOCKET"
            raise InputError("name one way that messages come by", where=where, hint=hint)
        card = create_site(workspace, workspace.resolve(folder), name, coordinator, recipe, data, given)
    if as_json:
        print_json({**card.model_dump(mode="json"), "fingerprint": card.fingerprint, "folder": str(folder)})
        return
    print_line(f"{folder / 'card.json'} holds the public keys of {name}: hand it over, and compare its fingerprint")
    print_line(card.fingerprint)
    if coordinator is not None:
        print_line(f"read {folder / 'policy.yaml'} before you serve")


@site_app.command("serve")
def site_serve(
    folder: Folder,
    once: Annotated[bool, typer.Option("--once", help="End when a federation has ended.")] = False,
) -> None:
    """Answer a coordinator's messages as far as the policy allows."""
    from luthier.commands.site import open_site

    workspace = current_workspace()
    server = open_site(workspace, workspace.resolve(folder), print_line)
    try:
        server.run(once=once)
    finally:
        server.close()


@site_app.command("flower")
def site_flower(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The app's new folder, for `flwr run`.")],
    as_json: Json = False,
) -> None:
    """Write the Flower app that carries messages for the transport `flower`."""
    from luthier.commands.site import write_flower_app

    written = write_flower_app(current_workspace().resolve(folder))
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in written]})
        return
    print_line(f"wrote the app into {folder}: run it by `flwr run {folder}` in an environment with flwr 1.42 or later")


@site_app.command("approve")
def site_approve(
    folder: Folder,
    order: Annotated[str, typer.Argument(metavar="DIGEST", help="How the digest of the order that waits begins.")],
) -> None:
    """Approve an order that waits; a `site serve` that runs answers it then."""
    from luthier.commands.site import approve

    print_line(f"approved {approve(current_workspace().resolve(folder), order)}")


@site_app.command("model")
def site_model(folder: Folder, as_json: Json = False) -> None:
    """Print where this site's own models lie, and how to evaluate, serve and chat with them."""
    from luthier.commands.site import list_site_models

    workspace = current_workspace()
    models = list_site_models(workspace, workspace.resolve(folder))
    if as_json:
        print_json(models)
        return
    if not models:
        print_line("no federation with a `personal` part has ended here")
    for model in models:
        print_line(f"federation {model['federation'][:12]} ({model['personal']['kind']}): {model['folder']}")
        print_line(f"  write into the steps of the site's recipe:  {model['step']}")
    if models:
        print_line("then it is a model like any other: luthier run, evaluate, chat, serve and export by that step")


@site_app.command("log")
def site_log(folder: Folder, as_json: Json = False) -> None:
    """Check the chain of the log, and list every message that came or went."""
    from luthier.commands.site import read_log

    entries = read_log(current_workspace().resolve(folder))
    if as_json:
        print_json(entries)
        return
    widths = {"at": 19, "federation": 8, "way": 7, "number": 6, "kind": 12, "bytes": 12, "why": 40}
    print_table(tuple(widths), [[str(entry[name])[:width] for name, width in widths.items()] for entry in entries])
