"""The JSON schema of a recipe, from the same definitions that read it: for editors, forms and other programs."""

from __future__ import annotations

from typing import Any

from luthier.core.schema import full_schema
from luthier.flow.recipe import Recipe

SCHEMA_FILE = "recipe.schema.json"
HEADER = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""A first line that makes editors with a YAML language server complete and check the recipe."""


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe file."""
    schema = full_schema(Recipe)
    model = schema["properties"]["model"]
    known = {"type": "string", "description": "A name of the catalogue, a folder, a .gguf file, or a hub id."}
    schema["properties"]["model"] = {**model, "anyOf": [known, *model["anyOf"]]}
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Luthier recipe", **rest}
