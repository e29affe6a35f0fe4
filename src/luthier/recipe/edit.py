"""Changes single settings in a recipe's text; comments and layout are preserved.

Every change is checked: the new text must parse to the old content with that one setting changed, so that an unusual
layout is refused rather than damaged.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import yaml

from luthier.core.errors import RecipeError, SourceLocation
from luthier.recipe.yaml import Key, join_dotted_path, parse_yaml


def set_value(text: str, file: str, key: Key, value: Any) -> str:
    """The text with a setting at a path: replaced, or added to the mapping that the path names.

    A part that is written as its bare kind becomes a mapping when a setting is given to it.

    Raises:
        RecipeError: the text is no YAML mapping, or the change cannot be made in its layout.
    """
    expected = _assigned(parse_yaml(text, file).data, key, value)
    return _checked(_with_value(text, _root(text), key, value), file, key, expected)


def remove_value(text: str, file: str, key: Key) -> str:
    """The text without a setting, or without an item of a list and the comment above it; without it already, as it is.

    Raises:
        RecipeError: as of `set_value`.
    """
    data = parse_yaml(text, file).data
    if not _has(data, key):
        return text
    return _checked(_without_value(text, _root(text), key), file, key, _dropped(data, key))


class _Found(NamedTuple):
    """The deepest node on the way to a path, how much of the path leads there, and the node of its key."""

    node: yaml.Node
    depth: int
    name: yaml.Node | None


def _root(text: str) -> yaml.Node:
    return cast("yaml.Node", yaml.compose(text, Loader=yaml.SafeLoader))


def _find(root: yaml.Node, key: Key) -> _Found:
    node, name = root, None
    for depth, part in enumerate(key):
        inner = _child(node, part)
        if inner is None:
            return _Found(node, depth, name)
        name, node = inner
    return _Found(node, len(key), name)


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node | None, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((name, value) for name, value in node.value if name.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None


def _with_value(text: str, root: yaml.Node, key: Key, value: Any) -> str:
    found = _find(root, key)
    rest = key[found.depth :]
    for part in reversed(rest[1:]):
        value = {part: value}
    if not rest:
        return _replaced(text, found, value)
    if isinstance(found.node, yaml.ScalarNode):
        kind = yaml.safe_load(text[found.node.start_mark.index : found.node.end_mark.index] or "null")
        return _replaced(text, found, {**({"kind": kind} if kind is not None else {}), rest[0]: value})
    if isinstance(found.node, yaml.SequenceNode):
        return _appended(text, found, value)
    return _added(text, found, f"{_flow(rest[0])}: {_flow(value)}")


def _replaced(text: str, found: _Found, value: Any) -> str:
    """A value in the place of another; a block becomes one line."""
    start, end = found.node.start_mark.index, _end(text, found.node)
    if found.name is not None:
        colon = found.name.end_mark.index + 1
        if start == colon or "\n" in text[colon:start]:
            return f"{text[:colon]} {_flow(value)}{text[max(colon, end) :]}"
    return f"{text[:start]}{_flow(value)}{text[end:]}"


def _added(text: str, found: _Found, setting: str) -> str:
    """Add a setting to a mapping, after the others."""
    mapping = cast("yaml.MappingNode", found.node)
    end = _end(text, mapping)
    if mapping.flow_style:
        before = text[: end - 1].rstrip()
        return f"{before}{'' if before.endswith(('{', ',')) else ', '}{setting}{text[end - 1 :]}"
    indent = mapping.value[0][0].start_mark.column
    return _line_after(text, end, f"{' ' * indent}{setting}")


def _appended(text: str, found: _Found, value: Any) -> str:
    """Append an item to a list."""
    items = cast("yaml.SequenceNode", found.node)
    end = _end(text, items)
    if items.flow_style:
        before = text[: end - 1].rstrip()
        return f"{before}{'' if before.endswith(('[', ',')) else ', '}{_flow(value)}{text[end - 1 :]}"
    return _line_after(text, end, f"{' ' * items.start_mark.column}- {_flow(value)}")


def _line_after(text: str, index: int, line: str) -> str:
    """A line behind the one that an index is in."""
    end = text.find("\n", index)
    return f"{text}\n{line}\n" if end < 0 else f"{text[:end]}\n{line}{text[end:]}"


def _without_value(text: str, root: yaml.Node, key: Key) -> str:
    parent, found = _find(root, key[:-1]), _find(root, key)
    collection = cast("yaml.MappingNode | yaml.SequenceNode", parent.node)
    start = (found.name or found.node).start_mark.index
    end = _end(text, found.node)
    if len(collection.value) == 1:
        return _replaced(text, parent, {} if isinstance(collection, yaml.MappingNode) else [])
    if collection.flow_style:
        after = text[end:].lstrip()
        if after.startswith(","):
            return text[:start] + after[1:].lstrip()
        return text[:start].rstrip().removesuffix(",") + text[end:]
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    if isinstance(collection, yaml.SequenceNode):
        first = _comment_above(text, first, collection.start_mark.column)
    return text[:first] + ("" if last < 0 else text[last + 1 :])


def _comment_above(text: str, index: int, column: int) -> int:
    """Return where the comment above a line begins, at its indentation."""
    while index:
        before = text.rfind("\n", 0, index - 1) + 1
        if not text[before:index].startswith(" " * column + "#"):
            return index
        index = before
    return index


def _end(text: str, node: Any) -> int:
    """Return the end of a node's own text: the parser includes the following blank lines and comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        if isinstance(last, tuple):
            name, value = last
            return max(int(name.end_mark.index) + 1, _end(text, value))
        return _end(text, last)
    start, end = int(node.start_mark.index), int(node.end_mark.index)
    return start + len(text[start:end].rstrip("\n")) if isinstance(node, yaml.ScalarNode) and node.style else end


def _flow(value: Any) -> str:
    """Return a value on one line, also valid inside brackets."""
    inside = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return inside.rstrip("\n").removeprefix("[").removesuffix("]")


def _checked(text: str, file: str, key: Key, expected: Any) -> str:
    try:
        same = parse_yaml(text, file).data == expected
    except RecipeError:
        same = False
    if not same:
        where = SourceLocation(file=file, field=join_dotted_path(key))
        raise RecipeError("cannot be changed in this layout", where=where, hint="change it in the text")
    return text


def _has(data: Any, key: Key) -> bool:
    for part in key:
        is_item = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not is_item and not (isinstance(data, dict) and part in data):
            return False
        data = data[part]
    return True


def _assigned(data: Any, key: Key, value: Any) -> Any:
    """Plain data with a value put at a path."""
    if not key:
        return value
    head, rest = key[0], key[1:]
    if isinstance(data, list) and isinstance(head, int):
        if head >= len(data):
            return [*data, _assigned(None, rest, value)]
        return [_assigned(item, rest, value) if at == head else item for at, item in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        data = {"kind": data}
    return {**(data or {}), head: _assigned((data or {}).get(head), rest, value)}


def _dropped(data: Any, key: Key) -> Any:
    """Plain data without what is at a path."""
    head, rest = key[0], key[1:]
    if isinstance(data, list):
        return [_dropped(item, rest) if at == head else item for at, item in enumerate(data) if rest or at != head]
    return {name: _dropped(item, rest) if name == head else item for name, item in data.items() if rest or name != head}
