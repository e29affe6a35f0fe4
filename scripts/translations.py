"""Keeps `src/luthier/studio/locale/LANGUAGE.po` in step with the texts of the studio.

    python scripts/translations.py           # add what is new, drop what is gone
    python scripts/translations.py --check   # say what is missing, and fail

Texts are those of the studio's Python and templates, of the report's templates, and those that the studio's form of a
recipe shows first: what the kinds of parts are, and the settings that are required or that most users want. Sentences
that other packages write are marked there by `gettext_noop`; their messages bear the comment `sentence`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from luthier.commands.components import list_component_roles
from luthier.commands.projects.recipe_form import first_sentence
from luthier.core.component import BasicMarker, components_by_kind, field_descriptions
from luthier.recipe.schema import Recipe
from luthier.studio.translation import LANGUAGES, SENTENCE

SOURCE = Path(__file__).parent.parent / "src" / "luthier"
STUDIO = SOURCE / "studio"
LOCALE = STUDIO / "locale"
PATTERNS = [("**.py", "python"), ("templates/**.jinja", "jinja2")]
TEMPLATES = {"newstyle_gettext": "true", "trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}
REPORT_TEMPLATES = ("eval/report/templates",)
WITH_SETTINGS = ("step", "source", "technique", "objective")
WITH_KINDS = (*WITH_SETTINGS, "operator", "question")
WRITTEN = {
    "prepare": ("ops", "split", "task"),
    "validate": ("checks", "model"),
    "tune": ("model",),
    "evaluate": ("data", "model", "metrics"),
}
"""Settings of steps that a proposed recipe writes, and the form therefore shows."""
HEADER = "# Texts of the studio. `python scripts/translations.py` adds what is new and drops what is gone."
PLACEHOLDER = re.compile(r"%\(\w+\)s|%%|%")
"""A `%` alone is one of a text that is never formatted; in one that is, it would break the page."""


def extract_messages() -> Catalog:
    """All texts that the studio shows, without translations."""
    found = Catalog()
    options = {"templates/**.jinja": TEMPLATES}
    for _, _, message, _, _ in extract_from_dir(STUDIO, PATTERNS, options):
        found.add(message)
    for text in _form_texts():
        if text not in found:
            found.add(text)
    for folder in REPORT_TEMPLATES:
        for _, _, message, _, _ in extract_from_dir(SOURCE / folder, [("**.jinja", "jinja2")], {"**.jinja": TEMPLATES}):
            found.add(message)
    for file in sorted(SOURCE.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "gettext_noop" in source:
            for message, counts in extract_sentences(source, str(file.relative_to(SOURCE))):
                found.add(message, auto_comments=[f"{SENTENCE}, counted by {counts}" if counts else SENTENCE])
    return found


def extract_sentences(source: str, file: str = "<source>") -> Iterator[tuple[str | tuple[str, str], str]]:
    """The messages of all calls of `gettext_noop` in Python source: each a template, or its singular and plural with
    the placeholder that decides between them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "gettext_noop":
            for draft in filter(_Draft.text, _expand(node.args[0])):
                message = draft.message()
                if not re.search(r"[^\W\d_]{2}", PLACEHOLDER.sub("", draft.text())):
                    raise ValueError(f"{file}:{node.lineno}: gettext_noop needs words beside its values: {message!r}")
                yield message, draft.counts if isinstance(message, tuple) else ""


class _Draft(NamedTuple):
    """A message in the making: literal texts and names of placeholders (in a tuple), in the singular and plural."""

    one: tuple[str | tuple[str], ...] = ()
    many: tuple[str | tuple[str], ...] = ()
    counts: str = ""
    """The placeholder whose number decides between singular and plural."""

    def join(self, other: _Draft) -> _Draft:
        return _Draft(self.one + other.one, self.many + other.many, self.counts or other.counts)

    def text(self) -> str:
        return _template(self.one)

    def message(self) -> str | tuple[str, str]:
        one, many = _template(self.one), _template(self.many)
        return one if one == many else (one, many)


def _template(parts: Sequence[str | tuple[str]]) -> str:
    is_format = any(isinstance(part, tuple) for part in parts)
    seen: Counter[str] = Counter()
    written = []
    for part in parts:
        if isinstance(part, str):
            written.append(part.replace("%", "%%") if is_format else part)
        else:
            seen[part[0]] += 1
            written.append(f"%({part[0]}{seen[part[0]] if seen[part[0]] > 1 else ''})s")
    return "".join(written)


def _expand(node: ast.expr) -> list[_Draft]:
    """What an expression can say."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [_Draft((node.value,), (node.value,))] if node.value else [_Draft()]
    if isinstance(node, ast.JoinedStr):
        drafts = [_Draft()]
        for part in node.values:
            is_value = isinstance(part, ast.FormattedValue)
            drafts = [a.join(b) for a in drafts for b in (_expand_value(part, a) if is_value else _expand(part))]
        return drafts
    if isinstance(node, ast.IfExp):
        return [draft for branch in (node.body, node.orelse) for draft in _expand(branch)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a.join(b) for a in _expand(node.left) for b in _expand(node.right)]
    return [_placeholder(node)]


def _expand_value(part: ast.FormattedValue, before: _Draft) -> list[_Draft]:
    node = part.value
    if isinstance(node, ast.IfExp) and all(_is_text(branch) for branch in (node.body, node.orelse)):
        one, many = ((branch.value,) for branch in (node.body, node.orelse))
        if _is_one(node.test):
            return [_Draft(one, many, _name(node.test.left))]
        return [_Draft(one, one), _Draft(many, many)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(map(_is_text, node.args[1:])):
        words = [argument.value for argument in node.args[1:]]
        name = _name(node.args[0]) if node.args else ""
        if node.func.id == "format_counted_noun" and words and not before.counts:
            one, many = words[0], words[1] if len(words) > 1 else f"{words[0]}s"
            return [_Draft(((name,), f" {one}"), ((name,), f" {many}"), name)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "format_rows_affected":
        one, more = (argument.value for argument in node.args[2:])
        start = ((_name(node.args[0]),), " of ", (_name(node.args[1]),), " ")
        return [_Draft((*start, one), (*start, more), _name(node.args[0]))]
    if part.conversion == ord("r"):
        name = f"quoted_{_name(node)}"
        return [_Draft(((name,),), ((name,),))]
    return [_placeholder(node)]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_one(node: ast.expr) -> bool:
    """Whether an expression is `count == 1`."""
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.comparators[0], ast.Constant)
        and (node.comparators[0].value == 1 and isinstance(node.ops[0], ast.Eq))
    )


def _placeholder(node: ast.expr) -> _Draft:
    name = _name(node)
    return _Draft(((name,),), ((name,),))


def _name(node: ast.expr) -> str:
    """A placeholder's name: the last name that is written in an expression, of a call that of its first argument."""
    match node:
        case ast.Name():
            name = node.id.strip("_")
        case ast.Attribute() if node.attr not in ("value", "title"):
            name = node.attr.strip("_")
        case ast.Attribute() | ast.Subscript():
            name = _name(node.value)
        case ast.Call():
            name = _name(node.args[0] if node.args else node.func)
        case ast.BinOp():
            name = _name(node.right if isinstance(node.left, ast.Constant) else node.left)
        case _:
            name = "value"
    return name


def _form_texts() -> Iterator[str]:
    roles = list_component_roles()
    for name in ("name", "seed", "model"):
        yield first_sentence(field_descriptions(Recipe).get(name, ""))
    for role in WITH_KINDS:
        for kind, part in sorted(components_by_kind(roles[role]).items()):
            if kind.startswith("_") or not part.__module__.startswith("luthier."):
                continue
            yield part.summary()
            about = field_descriptions(part) if role in WITH_SETTINGS else {}
            for name, info in part.model_fields.items():
                is_written = role == "step" and name in WRITTEN.get(kind, ())
                is_basic = any(isinstance(mark, BasicMarker) for mark in info.metadata)
                is_first = is_written or is_basic or info.is_required()
                if name in about and name != "kind" and is_first:
                    yield first_sentence(about[name])


def read_catalog(language: str) -> Catalog:
    """The translations of a language."""
    file = LOCALE / f"{language}.po"
    if not file.is_file():
        return Catalog(locale=language)
    with file.open("rb") as stream:
        return read_po(stream, locale=language)


def update_catalog(language: str, template: Catalog) -> None:
    """Write a language's file again: sorted, and without what changes by itself (dates, numbers of lines)."""
    catalog = read_catalog(language)
    catalog.update(template, no_fuzzy_matching=True)
    catalog.obsolete.clear()
    catalog.header_comment, catalog.fuzzy = HEADER, False
    written = io.BytesIO()
    write_po(written, catalog, width=0, no_location=True, sort_output=True)
    lines = written.getvalue().decode().splitlines()
    kept = ("Language:", "Plural-Forms:", "Content-")
    end = lines.index("", 3)
    head = [one for one in lines[:end] if not one.startswith('"') or one[1:].startswith(kept)]
    (LOCALE / f"{language}.po").write_text("\n".join([*head, *lines[end:]]).rstrip() + "\n", encoding="utf-8")


def find_problems(language: str, template: Catalog) -> Iterator[str]:
    """What keeps a language from being complete, a line each."""
    catalog = read_catalog(language)
    for message in template:
        if not message.id:
            continue
        found = catalog.get(message.id)
        problem = "is not in the file" if found is None else _problem_of(found, catalog.num_plurals)
        if problem:
            yield f"{language}: {_first(message)!r} {problem}"
    for message in catalog:
        if message.id and template.get(message.id) is None:
            yield f"{language}: {_first(message)!r} is not used"


def _problem_of(message: Message, plurals: int) -> str:
    forms = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
    if not all(forms):
        return "is not translated"
    if message.fuzzy:
        return "is fuzzy"
    if len(forms) != (plurals if message.pluralizable else 1):
        return f"has {len(forms)} forms"
    wanted = sorted(PLACEHOLDER.findall(_first(message)))
    if any(sorted(PLACEHOLDER.findall(form or "")) != wanted for form in forms):
        return f"has other placeholders than {wanted}"
    return ""


def _first(message: Message) -> str:
    return message.id[0] if isinstance(message.id, (tuple, list)) else message.id


def main(arguments: list[str]) -> int:
    """Update all languages, or check them."""
    template = extract_messages()
    languages = [one for one in LANGUAGES if one != "en"]
    if arguments == ["--check"]:
        problems = [one for language in languages for one in find_problems(language, template)]
        sys.stdout.write("".join(f"{one}\n" for one in problems))
        return 1 if problems else 0
    for language in languages:
        update_catalog(language, template)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
