"""Rewrite a recipe with the present names of its settings and kinds."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from luthier.core.files import write_atomically
from luthier.core.former_names import FORMER_FORM_KINDS, FORMER_KINDS, former_settings
from luthier.recipe.errors import find_field_at, find_role_at
from luthier.recipe.schema import Recipe
from luthier.recipe.yaml import Key, join_dotted_path, parse_yaml, read_yaml

_ROUNDS = 12
"""A setting inside a renamed one is only known once the outer one has its new name."""


class AppliedRename(NamedTuple):
    """One name that was replaced: its path, the old name and the new one."""

    path: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}: {self.old} is now {self.new}"


class _Edit(NamedTuple):
    start: int
    end: int
    renamed: AppliedRename


def migrate_text(text: str, file: str, model: type[BaseModel]) -> tuple[str, list[AppliedRename]]:
    """A recipe's text with present names, and what was replaced; `model` is the recipe's schema.

    Raises:
        RecipeError: the text is no YAML mapping.
    """
    applied_renames: list[AppliedRename] = []
    for _ in range(_ROUNDS):
        data = parse_yaml(text, file).data
        edits = sorted(set(_edits(yaml.compose(text, Loader=yaml.SafeLoader), (), data, model)), reverse=True)
        if not edits:
            break
        for start, end, renamed in edits:
            text = text[:start] + renamed.new + text[end:]
        applied_renames += [renamed for _, _, renamed in reversed(edits)]
    return text, applied_renames


def _edits(node: yaml.Node | None, key: Key, data: Any, model: type[BaseModel]) -> Iterator[_Edit]:
    if isinstance(node, yaml.MappingNode):
        for name_node, value_node in node.value:
            path = (*key, str(name_node.value))
            if edit := _setting(name_node, path, data, model):
                yield edit  # what stands below is known once this has its new name
                if (edit.renamed.old, edit.renamed.new) == ("form", "question"):
                    yield from _form_kind(value_node, path)
            else:
                yield from _edits(value_node, path, data, model)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _edits(item, (*key, index), data, model)
    elif isinstance(node, yaml.ScalarNode):
        yield from _kind(node, key, data, model)


def _setting(node: yaml.Node, key: Key, data: Any, model: type[BaseModel]) -> _Edit | None:
    """A key of a mapping that was the name of a setting."""
    owner, _ = find_field_at(key, data, model)
    new = former_settings(owner).get(str(key[-1])) if owner is not None else None
    if new is None or owner is None or key[-1] in owner.model_fields:
        return None
    return _edit(node, key, new)


def _kind(node: yaml.ScalarNode, key: Key, data: Any, model: type[BaseModel]) -> Iterator[_Edit]:
    """A value that was the kind of a part: after `kind:`, or alone in the part's place."""
    path = key[:-1] if key and key[-1] == "kind" else key
    role = find_role_at(path, data, model)
    kinds: Mapping[str, str] = FORMER_KINDS.get(getattr(role, "role", ""), {})
    if node.value in kinds:
        yield _edit(node, key, kinds[node.value])


def _form_kind(node: yaml.Node, key: Key) -> Iterator[_Edit]:
    """The former kind of what `human_eval` asks, alone or after `kind:`."""
    if isinstance(node, yaml.MappingNode):
        for name_node, value_node in node.value:
            if name_node.value == "kind":
                yield from _form_kind(value_node, (*key, "kind"))
    elif isinstance(node, yaml.ScalarNode) and node.value in FORMER_FORM_KINDS:
        yield _edit(node, key, FORMER_FORM_KINDS[node.value])


def _edit(node: yaml.Node, key: Key, new: str) -> _Edit:
    start, end = node.start_mark.index, node.end_mark.index
    old = str(node.value)
    quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
    return _Edit(start + quoted, end - quoted, AppliedRename(join_dotted_path(key), old, new))


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
