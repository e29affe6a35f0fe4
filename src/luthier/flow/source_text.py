"""YAML read safely and with places: plain data, and the line on which every path of it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RecipeError, Where

Key = tuple[str | int, ...]
_LIMIT_BYTES = 1 << 20
_LIMIT_NODES = 50_000


@dataclass(frozen=True)
class SourceText:
    """A recipe's data, and where in which file each part of it was written."""

    file: str
    data: dict[str, Any]
    lines: Mapping[Key, int]
    text: str = ""
    """What was written, with the overrides that were given on the command line."""

    def where(self, key: Key) -> Where:
        """The place of a path, or of its nearest parent that was written down."""
        field = dotted(key)
        while key and key not in self.lines:
            key = key[:-1]
        return Where(file=self.file, line=self.lines.get(key), field=field or None)


def dotted(key: Key) -> str:
    """`("steps", "tune", "r")` as `steps.tune.r`."""
    return ".".join(str(part) for part in key)


def read_yaml(path: Path) -> SourceText:
    """Read a recipe file; `RecipeError` with file and line for whatever is wrong with it."""
    return parse_yaml(_text(path), str(path))


def _text(path: Path) -> str:
    where = Where(file=str(path))
    try:
        if path.is_dir():
            path = path / "recipe.yaml"
        if path.stat().st_size > _LIMIT_BYTES:
            raise RecipeError("is over 1 MiB; a recipe is a page or two of YAML", where=where, remedy="is it the data?")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RecipeError("there is no such recipe", where=where, remedy="`luthier new NAME` writes one") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8 text"
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", where=where, remedy=remedy) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=where) from error


def parse_yaml(text: str, file: str) -> SourceText:
    """Parse YAML text; duplicate keys, unusual tags, control characters and alias bombs are errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or "cannot be parsed"
        raise RecipeError(
            f"is not YAML: {problem}", where=Where(file=file, line=line), remedy=_yaml_remedy(problem)
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"is not YAML: {str(error).splitlines()[0]}", where=Where(file=file)) from error
    reader = _Reader(file)
    data = reader.value(node, ()) if node is not None else None
    if not isinstance(data, dict):
        came = "nothing" if data is None else f"a {type(data).__name__}"
        remedy = "begin with `luthier: 1`, or let `luthier new` write one"
        raise RecipeError(f"wanted a recipe (a mapping), came {came}", where=Where(file=file, line=1), remedy=remedy)
    return SourceText(file, data, reader.lines, text)


def _yaml_remedy(problem: str) -> str:
    if "'\\t'" in problem:
        return "YAML indents with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "quote the text that holds a colon"
    return "check indentation and quotes near that line"


class _Reader:
    """Turns YAML nodes into plain data and remembers their lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Key, int] = {}
        self.count = 0
        self.scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        if self.count > _LIMIT_NODES or len(key) > 40:
            raise self.error(node, key, "is too large or too deep for a recipe", "write it out without aliases")
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, key)

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else ""
            if not name or name == "<<":
                raise self.error(name_node, key, "has a key that is not a plain name", "write each setting by its name")
            if name in found:
                first = self.lines[(*key, name)]
                raise self.error(name_node, (*key, name), f"is set twice (first on line {first})", "keep one of them")
            self.lines[(*key, name)] = name_node.start_mark.line + 1
            found[name] = self.value(value_node, (*key, name))
        return found

    def scalar(self, node: yaml.Node, key: Key) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        try:
            value = self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(node, key, f"has a value that YAML cannot read: {node.value!r}", "quote it") from error
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise self.error(node, key, f"has a value of a kind that recipes do not use: {node.tag}", "quote it")
        return value

    def error(self, node: yaml.Node, key: Key, message: str, remedy: str) -> RecipeError:
        where = Where(file=self.file, line=node.start_mark.line + 1, field=dotted(key) or None)
        return RecipeError(message, where=where, remedy=remedy)


def override(source: SourceText, assignments: tuple[str, ...]) -> SourceText:
    """Apply `steps.tune.technique.r=32`: the value is YAML; a bare kind on the way becomes a mapping with that kind."""
    data = source.data
    for text in assignments:
        path, sign, value = text.partition("=")
        where = Where(file="command line", field=text)
        if not sign or not all(path.split(".")):
            raise RecipeError("wanted PATH=VALUE", where=where, remedy="for example steps.tune.technique.r=32")
        parsed = parse_yaml(f"value: {value}" if value.strip() else "value:", f"command line ({text})").data["value"]
        data = _assign(data, path.split("."), parsed, where)
    given = "".join(f"# given on the command line: {text}\n" for text in assignments)
    return SourceText(source.file, data, source.lines, source.text + given)


def _assign(node: Any, path: list[str], value: Any, where: Where) -> Any:
    """A copy of `node` with `value` put at `path`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            remedy = f"there are {len(node)} items, from 0"
            raise RecipeError(f"{head!r} is not an item of this list", where=where, remedy=remedy)
        return [_assign(item, rest, value, where) if str(i) == head else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if isinstance(node, str):
        node = {"kind": node}
    if not isinstance(node, dict):
        raise RecipeError(f"{head!r} cannot be set inside {node!r}", where=where, remedy="name a setting of a part")
    return {**node, head: _assign(node.get(head), rest, value, where)}
