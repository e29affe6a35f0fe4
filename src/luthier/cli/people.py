"""Commands about who uses a workspace: people, audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace
from luthier.core.errors import InputError, SourceLocation

people_app = typer.Typer(
    help="Accounts of the studio, and what they may do.", no_args_is_help=True, rich_markup_mode=None
)
audit_app = typer.Typer(help="Who did what in the workspace.", no_args_is_help=True, rich_markup_mode=None)
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that the person logs in with.")]
_Projects = Annotated[
    list[str] | None,
    typer.Option("--project", help="Only in this project; may be repeated. All of the workspace when not given."),
]
_FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(people_app, name="people")
    app.add_typer(audit_app, name="audit")


@people_app.command("add")
def people_add(
    name: _Name,
    owner: Annotated[
        bool, typer.Option("--owner", help="An owner of the workspace, as the first one must be.")
    ] = False,
    role: Annotated[str, typer.Option(help="owner, editor, reviewer, labeller or viewer.")] = "viewer",
    project: _Projects = None,
    shown: Annotated[str, typer.Option("--shown-as", help="What pages call the person.")] = "",
    email: Annotated[str | None, typer.Option(help="Where the person is reached.")] = None,
    password_stdin: _FromStdin = False,
    as_json: Json = False,
) -> None:
    """Add an account; from the first one on, everybody logs in to the studio."""
    from luthier.commands.people import add_account

    password = _ask_password(from_stdin=password_stdin)
    role, project = ("owner", []) if owner else (role, project or [])
    add_account(current_workspace(), name, role, project, shown=shown, email=email, password=password)
    print_json({"added": name, "role": role}) if as_json else print_line(f"{name} may log in now, as {role}")


def _ask_password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        what = "there is no terminal to type a password on"
        hint = "pipe it: --password-stdin < FILE"
        raise InputError(what, where=SourceLocation(field="--password-stdin"), hint=hint)
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@people_app.command("list")
def people_list(as_json: Json = False) -> None:
    """List accounts with their roles."""
    from luthier.commands.people import list_people

    accounts = list_people(current_workspace())
    if as_json:
        print_json({"people": [{**vars(account), "roles": dict(account.roles)} for account in accounts]})
        return
    rows = [
        (
            account.id,
            account.name,
            " ".join(f"{project}:{role}" for project, role in account.roles.items()),
            f"{account.made_at:%Y-%m-%d}",
        )
        for account in accounts
    ]
    print_table(("name", "shown as", "roles", "made (UTC)"), rows)


@people_app.command("invite")
def people_invite(
    role: Annotated[str, typer.Option(help="owner, editor, reviewer, labeller or viewer.")],
    project: _Projects = None,
    days: Annotated[float, typer.Option(min=0.01, max=90, help="How long the link may be used.")] = 7,
    url: Annotated[str, typer.Option(help="Where the studio is reached.")] = "http://127.0.0.1:8100",
    as_json: Json = False,
) -> None:
    """Print a link that makes one account."""
    from luthier.commands.people import invite_person

    link = url.rstrip("/") + invite_person(current_workspace(), role, project or [], days)
    print_json({"link": link}) if as_json else print_line(link)


@people_app.command("role")
def people_role(
    name: _Name,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="owner, editor, reviewer, labeller, viewer; or none.")],
    project: _Projects = None,
    as_json: Json = False,
) -> None:
    """Give a person a role, or take it away."""
    from luthier.commands.people import change_role

    change_role(current_workspace(), name, None if role == "none" else role, project or [])
    print_json({"person": name, "role": role}) if as_json else print_line(f"{name}: {role}")


@people_app.command("password")
def people_password(name: _Name, password_stdin: _FromStdin = False, as_json: Json = False) -> None:
    """Give a person another password; their sessions end."""
    from luthier.commands.people import change_password

    change_password(current_workspace(), name, _ask_password(from_stdin=password_stdin))
    print_json({"changed": name}) if as_json else print_line(f"{name} has another password now")


@people_app.command("remove")
def people_remove(name: _Name, as_json: Json = False) -> None:
    """Close an account: its sessions end and its keys are revoked; answers stay."""
    from luthier.commands.people import remove_account

    remove_account(current_workspace(), name)
    print_json({"removed": name}) if as_json else print_line(f"{name} cannot log in any more")


@people_app.command("export")
def people_export(
    name: _Name,
    to: Annotated[Path, typer.Option(metavar="FILE", help="A JSON file.")],
    as_json: Json = False,
) -> None:
    """Write all that is recorded under a person's name into a file."""
    from luthier.commands.people import export_person

    counts = export_person(current_workspace(), name, to)
    if as_json:
        print_json({"file": str(to), "rows": counts})
        return
    print_line(f"{to}: {', '.join(f'{count} {what}' for what, count in counts.items())}")


@people_app.command("erase")
def people_erase(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Close an account and replace the name by a pseudonym wherever it is recorded; answers stay."""
    from luthier.commands.people import erase_person

    if not yes:
        typer.confirm(f"Replace {name} everywhere? This cannot be undone.", abort=True, err=True)
    pseudonym, rows = erase_person(current_workspace(), name)
    if as_json:
        print_json({"pseudonym": pseudonym, "rows": rows})
        return
    print_line(f"{rows} rows now say {pseudonym}; artifacts that were made before keep the name")


@audit_app.command("show")
def audit_show(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many, the latest.")] = 50,
    person: Annotated[str, typer.Option(help="Only what this person did, or what was done to them.")] = "",
    as_json: Json = False,
) -> None:
    """Show the latest entries of the audit log, the last first."""
    from luthier.commands.people import list_audit

    audit_entries = list_audit(current_workspace(), count, person)
    if as_json:
        print_json({"entries": [vars(audit_entry) for audit_entry in audit_entries]})
        return
    head = ("number", "when (UTC)", "who", "what", "project", "about")
    rows = [
        (
            audit_entry.number,
            f"{audit_entry.at:%Y-%m-%d %H:%M:%S}",
            audit_entry.actor,
            audit_entry.action,
            audit_entry.project,
            audit_entry.whom or audit_entry.subject,
        )
        for audit_entry in audit_entries
    ]
    print_table(head, rows)


@audit_app.command("verify")
def audit_verify(
    expect: Annotated[
        str | None, typer.Option(metavar="NUMBER:DIGEST", help="A head that was printed before and noted elsewhere.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no entry was changed, taken out or put in; prints the head, to be noted elsewhere."""
    from luthier.commands.people import verify_audit

    head = verify_audit(current_workspace(), expect)
    print_json({"head": head}) if as_json else print_line(f"the audit log is whole; its head is {head}")
