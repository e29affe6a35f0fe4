"""YAML read safely and with places: plain data, and the line on which every path of it stands."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean

Key = tuple[str | int, ...]
COMMAND_LINE = "command line"
_LIMIT_BYTES = 1 << 20
_LIMIT_NODES = 50_000
_SHALLOW = 5000
"""Brackets and columns of a text that cannot be nested more deeply than that."""
_SHOWN_PARTS = 8
_YAML = "tag:yaml.org,2002:"
_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"})
"""Kinds of plain values, as YAML calls them."""


@dataclass(frozen=True)
class LocatedYaml:
    """A recipe's data, and where in which file each part of it was written."""

    file: str
    data: dict[str, Any]
    lines: Mapping[Key, int]
    text: str = ""
    """What was written in the file."""
    given: tuple[Key, ...] = ()
    """Paths whose values were given on the command line."""
    overrides: tuple[str, ...] = ()
    """The overrides of the command line, as PATH=VALUE."""

    def where(self, key: Key) -> SourceLocation:
        """The place of a path, or of its nearest parent that was written down."""
        field = join_dotted_path(key)
        if any(self._gave(path, key) for path in self.given):
            return SourceLocation(file=COMMAND_LINE, field=field)
        while key and key not in self.lines:
            key = key[:-1]
        return SourceLocation(file=self.file, line=self.lines.get(key), field=field or None)

    def _gave(self, path: Key, key: Key) -> bool:
        """Whether the command line gave a path, or something on the way to it that the file does not have."""
        new = next((end for end in range(1, len(path)) if path[:end] not in self.lines), len(path))
        return key[:new] == path[:new]


def join_dotted_path(key: Key) -> str:
    """`("steps", "tune", "r")` as `steps.tune.r`."""
    return ".".join(str(part) for part in key)


def read_yaml(path: Path) -> LocatedYaml:
    """Read a recipe file; `RecipeError` with file and line for whatever is wrong with it."""
    return parse_yaml(_text(path), str(path))


def _text(path: Path) -> str:
    where = SourceLocation(file=str(path))
    try:
        if path.is_dir():
            message, hint = "is a folder that holds no recipe.yaml", "name the recipe's file"
            raise RecipeError(message, where=where, hint=hint)
        if path.exists() and not path.is_file():
            raise RecipeError("is not a file", where=where, hint="name the recipe's file")
        if path.stat().st_size > _LIMIT_BYTES:
            message, hint = "is over 1 MiB; a recipe is a page or two of YAML", "name the recipe, not the data"
            raise RecipeError(message, where=where, hint=hint)
        return _decoded(path.read_bytes(), where)
    except FileNotFoundError as error:
        raise RecipeError("there is no such recipe", where=where, hint="`luthier new NAME` writes one") from error
    except OSError as error:
        hint = "give yourself the right to read it"
        raise RecipeError(f"cannot be read: {error.strerror}", where=where, hint=hint) from error


def _decoded(data: bytes, where: SourceLocation) -> str:
    """The text of a recipe's bytes; what else they are is told as well as it can be seen."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or data[:64].count(0) * 3 > len(data[:64]):
        raise RecipeError("is UTF-16 text; UTF-8 is wanted", where=where, hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = SourceLocation(file=where.file, line=data.count(b"\n", 0, error.start) + 1)
        message = f"is not UTF-8 text: byte 0x{data[error.start]:02x} on this line"
        raise RecipeError(message, where=at, hint="save it as UTF-8, or name the recipe's file") from error


def parse_yaml(text: str, file: str) -> LocatedYaml:
    """Parse YAML text; duplicate keys, tags, control characters and alias bombs are errors."""
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, file) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(str(error.character))
        message = f"is not YAML: a control character (U+{code:04X}) stands on this line"
        raise RecipeError(message, where=SourceLocation(file=file, line=line), hint="remove it") from error
    except (yaml.YAMLError, RecursionError) as error:
        hint = "write it flat; a recipe is a page or two of YAML"
        raise RecipeError("is nested too deeply", where=SourceLocation(file=file), hint=hint) from error
    reader = _Reader(file)
    data = reader.value(node, ()) if node is not None else None
    if not isinstance(data, dict):
        came = {type(None): "nothing", list: "a list", str: "text"}.get(type(data), "a single value")
        hint = "begin with `luthier: 1`, or let `luthier new` write one"
        raise RecipeError(
            f"expected a recipe (a mapping), got {came}", where=SourceLocation(file=file, line=1), hint=hint
        )
    return LocatedYaml(file, data, reader.lines, text)


def _compose(text: str) -> yaml.Node | None:
    """The nodes of a text: by libyaml where it is there, and by the parser in Python for what that one refuses, since
    only this one says why in full, and for what may be nested deeply, since libyaml's nodes nest on the stack of C."""
    depth = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if yaml.__with_libyaml__ and depth < _SHALLOW:
        with suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=yaml.CSafeLoader)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _not_yaml(error: yaml.MarkedYAMLError, file: str) -> RecipeError:
    """What the parser said, with the line that a person has to mend."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "cannot be parsed"
    opened = error.context_mark.line + 1 if error.context_mark else None
    if problem == "found unexpected end of stream":
        where = SourceLocation(file=file, line=opened)
        return RecipeError("is not YAML: a quote is opened here and never closed", where=where, hint="close the quote")
    if opened is not None and "flow" in (error.context or ""):
        begins = (
            f"the bracket that is opened on line {opened}" if "node" not in str(error.context) else "an open bracket"
        )
        problem = f"{problem}, in {begins}"
    where = SourceLocation(file=file, line=mark.line + 1 if mark else None)
    return RecipeError(f"is not YAML: {problem}", where=where, hint=_yaml_remedy(problem))


_YAML_REMEDIES = (
    ("'\\t'", "YAML indents with spaces, not tabs"),
    ("mapping values are not allowed", "quote the text that holds a colon"),
    ("cannot start any token", "quote a value that begins with such a sign"),
    ("undefined alias", "quote a value that begins with *"),
    ("another document", "keep one recipe a file: remove the line `---` and what follows"),
    ("bracket", "close the bracket, and put commas between its parts"),
)
"""What to do, by words of the parser's complaint."""


def _yaml_remedy(problem: str) -> str:
    found = (hint for words, hint in _YAML_REMEDIES if words in problem)
    return next(found, "check indentation and quotes near that line")


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
        if node.tag.removeprefix(_YAML) not in _TAGS:
            raise self.error(node, key, f"has the tag {_tag(node)}; a recipe holds plain values", "remove the tag")
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
        return value

    def error(self, node: yaml.Node, key: Key, message: str, hint: str) -> RecipeError:
        shown = join_dotted_path(key[:_SHOWN_PARTS]) + (".…" if len(key) > _SHOWN_PARTS else "")
        where = SourceLocation(file=self.file, line=node.start_mark.line + 1, field=shown or None)
        return RecipeError(message, where=where, hint=hint)


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(_YAML, "!!", 1)


def apply_overrides(source: LocatedYaml, assignments: tuple[str, ...]) -> LocatedYaml:
    """Apply `steps.tune.technique.r=32`: the value is YAML; a bare kind on the way becomes a mapping with that kind."""
    data = source.data
    given: list[Key] = []
    for text in assignments:
        path, sign, value = text.partition("=")
        where = SourceLocation(file=COMMAND_LINE, field=text)
        if has_step(text, data):
            hint = f"`--only` stands before every step: --only {text}"
            raise RecipeError("expected PATH=VALUE, got the name of a step", where=where, hint=hint)
        if not sign or not all(path.split(".")):
            raise RecipeError("expected PATH=VALUE", where=where, hint="for example steps.tune.technique.r=32")
        data = _assign(data, path.split("."), _value(value, where), where)
        given.append(tuple(int(part) if part.isdigit() else part for part in path.split(".")))
    _refuse_unknown_steps(data, given, given_as=assignments)
    given = [*source.given, *given]
    return LocatedYaml(source.file, data, source.lines, source.text, tuple(given), (*source.overrides, *assignments))


def _refuse_unknown_steps(data: dict[str, Any], given: Sequence[Key], given_as: Sequence[str]) -> None:
    """A setting inside a step that there is not is a slip in the step's name, unless the step's kind is given, too."""
    steps = data.get("steps")
    if not isinstance(steps, dict):
        return
    for path, text in zip(given, given_as, strict=True):
        step = steps.get(path[1]) if path[0] == "steps" and len(path) > 2 else None
        if isinstance(step, dict) and "kind" not in step:
            known = [name for name, entry in steps.items() if not isinstance(entry, dict) or "kind" in entry]
            where = SourceLocation(file=COMMAND_LINE, field=text)
            raise RecipeError(f"there is no step {path[1]!r}", where=where, hint=did_you_mean(str(path[1]), known))


def has_step(name: str, data: Any) -> bool:
    """Whether what was read of a recipe has a step of this name."""
    steps = data.get("steps") if isinstance(data, dict) else None
    return isinstance(steps, dict) and name in steps


def _value(text: str, where: SourceLocation) -> Any:
    """One value of the command line, read as YAML."""
    try:
        return parse_yaml(f"value: {text}" if text.strip() else "value:", COMMAND_LINE).data["value"]
    except RecipeError as error:
        raise RecipeError(error.message, where=where, hint=error.hint) from error


def _assign(node: Any, path: list[str], value: Any, where: SourceLocation) -> Any:
    """A copy of `node` with `value` put at `path`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            hint = f"there are {len(node)} items, from 0"
            raise RecipeError(f"{head!r} is not an item of this list", where=where, hint=hint)
        return [_assign(item, rest, value, where) if str(i) == head else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if isinstance(node, str):
        node = {"kind": node}
    if not isinstance(node, dict):
        raise RecipeError(f"{head!r} cannot be set inside {node!r}", where=where, hint="name a setting of a part")
    return {**node, head: _assign(node.get(head), rest, value, where)}
