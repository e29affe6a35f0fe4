"""The command that opens the studio."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.output import Json, print_line
from luthier.core.errors import InputError, SourceLocation

if TYPE_CHECKING:
    from luthier.people.oidc import OidcSettings
    from luthier.studio.server import StudioAddress


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(studio)


def studio(  # noqa: PLR0913, PLR0917  # the options of a command
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where your projects are, or shall be; else this folder.")
    ] = Path(),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8100,
    host: Annotated[str, typer.Option(help="Beyond this machine only when there are accounts.")] = "127.0.0.1",
    url: Annotated[
        str, typer.Option(help="The address that others reach it by; https where something before it encrypts.")
    ] = "",
    oidc: Annotated[str, typer.Option(metavar="ISSUER", help="Let people log in at this OpenID provider, too.")] = "",
    client_id: Annotated[str, typer.Option(help="What the provider knows the studio by.")] = "",
    client_secret_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable with the client's secret, if it has one.")
    ] = "",
    oidc_domain: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN", help="Verified e-mail addresses that need no invitation; may be repeated."),
    ] = None,
    oidc_role: Annotated[str, typer.Option(metavar="ROLE", help="The role of these.")] = "viewer",
    as_json: Json = False,
) -> None:
    """Open the studio: projects, recipes, runs and data in a browser. Prints a link that opens it."""
    from luthier.recipe.workspace import Workspace
    from luthier.serve.server import ServerSettings
    from luthier.studio.server import run_studio

    if not folder.is_dir():
        raise InputError("is not a folder", where=SourceLocation(file=str(folder)), hint=f"mkdir {folder}")
    provider = _provider(oidc, client_id, client_secret_env, tuple(oidc_domain or ()), oidc_role)
    workspace = Workspace.open(folder.resolve())
    settings = ServerSettings(host=host, port=port)
    run_studio(workspace, settings, lambda address: _tell(address, as_json=as_json), url=url, oidc=provider)


def _provider(issuer: str, client_id: str, secret_env: str, domains: tuple[str, ...], role: str) -> OidcSettings | None:
    """The OpenID provider that the options describe."""
    from luthier.people.accounts import check_role
    from luthier.people.oidc import OidcSettings

    if not issuer:
        if client_id or secret_env or domains:
            hint = "name the provider, too: --oidc ISSUER"
            raise InputError("an OpenID provider is wanted", where=SourceLocation(field="--oidc"), hint=hint)
        return None
    if not client_id:
        raise InputError(
            "the provider needs a client", where=SourceLocation(field="--client-id"), hint="--client-id ID"
        )
    secret = os.environ.get(secret_env, "") if secret_env else ""
    if secret_env and not secret:
        where = SourceLocation(field="--client-secret-env")
        raise InputError(f"the environment variable {secret_env} is empty", where=where, hint=f"export {secret_env}=…")
    return OidcSettings(
        issuer=issuer, client_id=client_id, client_secret=secret, domains=domains, role=check_role(role)
    )  # fmt: skip


def _tell(address: StudioAddress, *, as_json: bool) -> None:
    """Where it listens, at once, also to a pipe."""
    facts = {"url": address.url, "link": address.link}
    once = "" if address.link.endswith("/login") else "The link opens the studio once; "
    print_line(json.dumps(facts) if as_json else f"open {address.link}\n{once}Ctrl-C stops it.")
    sys.stdout.flush()
