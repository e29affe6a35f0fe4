"""Commands of a site that takes part in federations: site init, serve, approve, log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.errors import InputError, SourceLocation

site_app = typer.Typer(
    help="Take part in federations with rows that stay here: init, serve, approve, log.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's folder: keys, policy and log.")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(site_app, name="site")


@site_app.command("init")
def site_init(  # the options of a command
    folder: Folder,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the coordinator calls this site.")],
    coordinator: Annotated[
        Path | None, typer.Option(metavar="CARD", help="The coordinator's card.json; left out for the coordinator.")
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="RECIPE", help="The site's own recipe.")] = "recipe.yaml",
    data: Annotated[str, typer.Option(metavar="STEP", help="The step that prepares the rows.")] = "data",
    share: Annotated[str | None, typer.Option(metavar="FOLDER", help="The folder with the messages.")] = None,
    http: Annotated[str | None, typer.Option(metavar="URL", help="Where the coordinator listens.")] = None,
    as_json: Json = False,
) -> None:
    """Make keys and a policy; without --coordinator, the keys of a coordinator alone."""
    from luthier.commands.site import create_keys, create_site

    workspace = current_workspace()
    if coordinator is None:
        card = create_keys(workspace.resolve(folder), name)
    else:
        given = {kind: value for kind, value in (("folder", share), ("http", http)) if value is not None}
        if len(given) != 1:
            where = SourceLocation(field="--share")
            raise InputError("name the messages' folder or the coordinator's URL, one of them", where=where)
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
    open_site(workspace, workspace.resolve(folder), print_line).run(once=once)


@site_app.command("approve")
def site_approve(
    folder: Folder,
    order: Annotated[str, typer.Argument(metavar="DIGEST", help="How the digest of the order that waits begins.")],
) -> None:
    """Approve an order that waits; a `site serve` that runs answers it then."""
    from luthier.commands.site import approve

    print_line(f"approved {approve(current_workspace().resolve(folder), order)}")


@site_app.command("log")
def site_log(folder: Folder, as_json: Json = False) -> None:
    """Check the chain of the log, and list every message that came or went."""
    from luthier.commands.site import read_log

    entries = read_log(current_workspace().resolve(folder))
    if as_json:
        print_json(entries)
        return
    names = ("at", "federation", "way", "number", "kind", "bytes", "digest", "why")
    print_table(names, [[str(entry[name])[: 40 if name == "why" else 16] for name in names] for entry in entries])
