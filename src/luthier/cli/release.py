"""Commands about releases: release ALIAS MODEL, list, history, compare, promote, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from luthier.cli.output import Json, print_json, print_line
from luthier.cli.workspace import current_workspace

if TYPE_CHECKING:
    from luthier.traces.releases import Release

Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="What it is for, @, and where: support@prod.")]


class _Group(TyperGroup):
    """`luthier release support@prod MODEL` needs no verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb there."""
        return super().parse_args(ctx, ["put", *args] if args and "@" in args[0] else args)


release_app = typer.Typer(
    cls=_Group,
    help="Released names of models: release ALIAS MODEL, list, history, compare, promote, rollback.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(release_app, name="release")


@release_app.command("put")
def release_put(
    alias: Alias,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="RECIPE:STEP, RUN:STEP, a recipe, a digest, or a base model.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE …]", help="The recipe's overrides, as they were given to `luthier run`."),
    ] = None,
    canary: Annotated[str | None, typer.Option(help="Try it on this share of users only, such as 10%.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Ask it the same, unheard.")] = False,
    as_json: Json = False,
) -> None:
    """Release a model under a name; `put` may be left out."""
    from luthier.commands import release
    from luthier.recipe.locate import CommandTarget

    target = CommandTarget.read(current_workspace(), model, overrides, f"release {alias} {{}}")
    _say(release.release_recipe_model(alias, target, canary, shadow=shadow), as_json=as_json)


@release_app.command("list")
def release_list(as_json: Json = False) -> None:
    """List the released names and their models."""
    from luthier.commands import release

    releases = release.list_aliases(current_workspace())
    if as_json:
        print_json([release.release_to_json(entry) for entry in releases])
        return
    for entry in releases:
        print_line(release.describe_release(entry))
    if not releases:
        print_line("nothing is released yet: luthier release support@prod RECIPE:STEP")


@release_app.command("history")
def release_history(alias: Alias, as_json: Json = False) -> None:
    """List all changes of a name, the latest first."""
    from luthier.commands import release

    releases = release.history(current_workspace(), alias)
    if as_json:
        print_json([release.release_to_json(entry) for entry in releases])
        return
    for entry in releases:
        print_line(f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.did:<9} {release.describe_release(entry)}")


@release_app.command("compare")
def release_compare(alias: Alias, as_json: Json = False) -> None:
    """Compare the canary or shadow of a name with its stable model, by feedback, errors and latency."""
    from luthier.commands import release

    found = release.compare_candidate(current_workspace(), alias)
    if as_json:
        print_json(found)
        return
    for line in release.format_comparison_lines(found):
        print_line(line)


@release_app.command("promote")
def release_promote(alias: Alias, as_json: Json = False) -> None:
    """Promote the canary or shadow of a name to stable."""
    from luthier.commands import release

    _say(release.promote(current_workspace(), alias), as_json=as_json)


@release_app.command("rollback")
def release_roll_back(alias: Alias, as_json: Json = False) -> None:
    """Stop the canary or shadow of a name, or return to the model before."""
    from luthier.commands import release

    _say(release.roll_back(current_workspace(), alias), as_json=as_json)


def _say(found: Release, *, as_json: bool) -> None:
    from luthier.commands import release

    if as_json:
        print_json(release.release_to_json(found))
    else:
        print_line(release.describe_release(found))
