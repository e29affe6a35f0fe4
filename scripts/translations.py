"""Keeps `src/luthier/studio/locale/LANGUAGE.po` in step with the texts of the studio.

    python scripts/translations.py           # add what is new, drop what is gone
    python scripts/translations.py --check   # say what is missing, and fail

Texts are those of the studio's Python and templates, and those that its form of a recipe shows first: what the kinds of
parts are, and the settings that are required or that most users want.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from luthier.commands.components import list_component_roles
from luthier.commands.projects.recipe_form import first_sentence
from luthier.core.component import BasicMarker, components_by_kind, field_descriptions
from luthier.recipe.schema import Recipe
from luthier.studio.translation import LANGUAGES

STUDIO = Path(__file__).parent.parent / "src" / "luthier" / "studio"
LOCALE = STUDIO / "locale"
PATTERNS = [("**.py", "python"), ("templates/**.jinja", "jinja2")]
TEMPLATES = {"newstyle_gettext": "true", "trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}
WITH_SETTINGS = ("step", "source", "technique", "objective")
WITH_KINDS = (*WITH_SETTINGS, "operator", "question")
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
    return found


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
                is_first = info.is_required() or any(isinstance(mark, BasicMarker) for mark in info.metadata)
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
