"""Rewrite the file of a recipe with the present names of its settings and kinds."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

from luthier.core.files import write_atomically
from luthier.recipe.migrate import AppliedRename, migrate_text
from luthier.recipe.schema import Recipe
from luthier.recipe.yaml import read_yaml


def migrate_recipe(path: Path, *, write: bool) -> list[AppliedRename]:
    """What was renamed in a recipe (a file, or a folder with `recipe.yaml`), in order; the file is replaced whole.

    Raises:
        RecipeError: the file is missing or no YAML mapping.
    """
    file = path / "recipe.yaml" if path.is_dir() else path
    source = read_yaml(file)
    text, renamed = migrate_text(source.text, str(file), Recipe)
    if write and renamed:
        mark = BOM_UTF8 if file.read_bytes().startswith(BOM_UTF8) else b""  # which is no part of the text
        write_atomically(file, mark + text.encode())
    return renamed
