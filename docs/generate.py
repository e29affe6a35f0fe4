"""Write the reference pages of parts, commands and recipe settings from the code. `./check` runs it before Sphinx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from luthier.cli.app import app
from luthier.commands.components import (
    describe_role_components,
    find_component,
    list_component_roles,
    list_component_settings,
)
from luthier.core.component import field_descriptions
from luthier.recipe.schema import Recipe

HERE = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Every generated file with its text."""
    found = {HERE / "reference" / "recipe.md": _recipe_page(), HERE / "reference" / "commands.md": _commands_page()}
    for role in list_component_roles():
        found[HERE / "reference" / f"{_slug(role)}.md"] = _role_page(role)
    return found


def _slug(role: str) -> str:
    return role.replace(" ", "-")


def _recipe_page() -> str:
    lines = ["# The recipe", "", _clean(Recipe.__doc__ or ""), "", "| setting | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(about)} |" for name, about in field_descriptions(Recipe).items()]
    lines += ["", "The steps and parts that may stand in it, by role:", "", "```{toctree}", ":maxdepth: 1", ""]
    return "\n".join([*lines, *(_slug(role) for role in list_component_roles()), "```", ""])


def _role_page(role: str) -> str:
    base = list_component_roles()[role]
    lines = [f"# {role.capitalize()}", "", _clean(base.__doc__ or ""), ""]
    for kind in describe_role_components(base):
        part = find_component(role, kind)
        lines += [f"## `{kind}`", "", _clean(part.__doc__ or ""), ""]
        settings = list_component_settings(part)
        if settings:
            lines += ["| setting | type | default | what it is |", "|---|---|---|---|"]
            lines += [_setting_row(setting) for setting in settings] + [""]
    return "\n".join(lines)


def _setting_row(setting: dict[str, Any]) -> str:
    cells = (f"`{setting['name']}`", setting["type"], f"`{setting['default']}`", setting["about"])
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _clean(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _commands_page() -> str:
    lines = ["# Commands", "", "Every command that prints takes `--json`. Exit codes: 0 done · 1 a gate failed ·"]
    lines += ["2 the input is wrong · 3 a gate is inconclusive · 4 a fault of Luthier's · 130 interrupted.", ""]
    for path, command in _commands(typer.main.get_command(app), "luthier"):
        lines += [f"## `{path}`", "", _clean(command.help or ""), ""]
        rows = [row for parameter in command.params if (row := _parameter_row(parameter))]
        if rows:
            lines += ["| argument or option | default | what it is |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands(inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def _parameter_row(parameter: Any) -> str:
    name = (
        ", ".join(parameter.opts)
        if parameter.param_type_name == "option"
        else (parameter.metavar or parameter.name or "").strip("[]")
    )
    default = "" if parameter.default in (None, False) else str(parameter.default)
    return f"| `{name}` | {_cell(default)} | {_cell(getattr(parameter, 'help', '') or '')} |"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
