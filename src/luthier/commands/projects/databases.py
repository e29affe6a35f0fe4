"""Which databases a form may name: files of the workspace, and servers at addresses that databases stand at."""

from __future__ import annotations

import ipaddress
import socket

from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.core.system.net import find_plain_secret
from luthier.data.database.address import parse_database_address
from luthier.recipe.workspace import Workspace

SERVERS = frozenset({"postgresql", "mysql", "mariadb", "mssql", "oracle"})
"""Kinds of databases that are reached over the network."""
_PARAMETERS = frozenset({"sslmode", "application_name", "charset", "connect_timeout"})
"""Parameters of a URL that cannot lead elsewhere, or read a file."""
_METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "100.100.100.200", "fd00:ec2::254")))
"""Where clouds tell a machine its secrets."""


def check_database_url(workspace: Workspace, written: str) -> None:
    """Let a URL from a form pass, or say why not.

    A file of SQLite's must lie in the workspace; a server must be a database of a known kind, at no link-local,
    metadata, multicast or unspecified address. A password may only be named (`$NAME`), never written.

    Raises:
        InputError: the URL may not be used in a form.
        DataError: it is no URL of a database.
    """
    where = SourceLocation(field="database")
    if (secret := find_plain_secret(written)) is not None:
        hint = (
            "set it as an environment variable of the studio, and write its name: postgresql://user:$NAME@host/database"
        )
        raise InputError(f"holds a secret in clear ({secret})", where=where, hint=hint)
    address = parse_database_address(written, workspace.folder.absolute())
    if address.file is not None:
        if not address.file.resolve().is_relative_to(workspace.folder.resolve()):
            hint = "put the file into the workspace's folder, or use `luthier new NAME --from sqlite:///FILE`"
            raise InputError("the file lies outside the workspace", where=where, hint=hint)
        return
    kind = address.url.get_backend_name()
    if kind not in SERVERS:
        hint = f"take sqlite or one of {', '.join(sorted(SERVERS))}; `luthier new NAME --from URL` takes others"
        raise InputError(f"databases of the kind {kind[:40]!r} are not opened from a form", where=where, hint=hint)
    if odd := sorted(set(address.url.query) - _PARAMETERS):
        hint = f"leave it out; a form takes {', '.join(sorted(_PARAMETERS))}"
        raise InputError(f"the parameter {odd[0][:40]!r} is not taken from a form", where=where, hint=hint)
    _check_host(str(address.url.host or ""), address.url.port)


def _check_host(host: str, port: int | None) -> None:
    where = SourceLocation(field="database")
    if not host or host.startswith(("/", "@")) or "," in host:
        raise InputError("names no single host", where=where, hint="write postgresql://user:$NAME@host/database")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError) as error:
        raise DataError("its host cannot be found", where=where, hint="check the spelling of the host") from error
    for *_, sockaddr in found:
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain in _METADATA:
            hint = "name the database's own host; link-local and metadata addresses are not asked"
            raise InputError(f"the host {host[:80]!r} is at an inner address", where=where, hint=hint)
