"""Sentences that other packages wrote in English, in the language of the page.

A report, a finding or a plan is text when a page gets it: some was written before the page was asked for, and is kept
in an artifact. Its English is the key, as everywhere in gettext. `scripts/translations.py` takes the templates out of
the f-strings that are marked by `gettext_noop`; here a sentence is matched against them, and the values that stand in
it are filled into the translation. A sentence that no template matches stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from gettext import c2py

from luthier.eval.report.html import ENGLISH, PageLanguage
from luthier.studio.translation import SENTENCE, current_language, gettext, load_language, ngettext, read_language_file

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_QUOTES = "'\"`“„«‘"
"""A value that stands in quotes is the user's own: a label, a column, a command."""
_FIGURE = re.compile(r"(?<![\w.,])[−+-]?\d[\d,]*(?:\.\d+)?(?![\w])")
_ONLY_FIGURES = re.compile(
    r"(?:[−+-]?\d[\d,]*(?:\.\d+)?(?![\w.])|[KMGT]i?B\b|[kB]B\b|B\b|min\b|[shpd]\b|to\b|[ ()–%<=×/,])+"
)
"""Figures with their units and what stands between them."""
_COUNT = r"[−+-]?\d[\d,]*(?:\.\d+)?"
"""What a placeholder stands for that decides a plural, or is called `count` or `…_figure`: a figure alone."""
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
"""What a placeholder stands for that `!r` wrote."""
_CLAUSE = r"(?:(?!; |[.!?] [A-Z]).)*?"
"""What a placeholder named `how` stands for: the rest of a clause."""
_VALUE = r"""(?:'[^']*'|"[^"]*"|(?:(?![.!?] [A-Z]).)*?)"""
"""What any other one stands for: something in quotes, or words that no sentence ends in."""
_SENTENCE_END = re.compile(r"(?<=[.!?;:]) +")
_MOST = 4000
"""Longer texts are no sentences: they stay as they are."""


def translate_message(text: str) -> str:
    """A text that other packages wrote, in the language of the page; what has no translation stays English."""
    code = current_language()
    return text if code == "en" or not text or len(text) > _MOST else _translate(code, text)


def localize_figures(text: str) -> str:
    """A text of figures and units, with the signs of the page's language: `1,234.5` is `1.234,5` in German."""
    code = current_language()
    return text if code == "en" else _localize(code, text)


def page_language() -> PageLanguage:
    """The language of this request's page, for the page of a report."""
    return _report_language(current_language())


@cache
def _report_language(code: str) -> PageLanguage:
    """A report is English unless it is shown in another language; the functions ask for the language of the request."""
    return ENGLISH if code == "en" else PageLanguage(code, gettext, ngettext, translate_message, localize_figures)


@dataclass(frozen=True)
class _MessageTemplate:
    """A message with placeholders, and how to write it in another language."""

    pattern: re.Pattern[str]
    counts: str
    """The group whose number decides between singular and plural; empty for a message without a plural."""
    translations: Sequence[str]
    plural: Callable[[int], int]
    quoted: frozenset[str]
    """Placeholders whose values stand in quotes."""
    weight: int
    """Letters that do not depend on values: of several templates that match, the one with most of them is meant."""

    def write(self, code: str, text: str) -> str | None:
        """The text in another language, or None when it is not of this template."""
        match = self.pattern.fullmatch(text)
        if match is None:
            return None
        values = match.groupdict()
        written = {name: value if name in self.quoted else _translate(code, value) for name, value in values.items()}
        count = _read_count(values.get(self.counts, ""))
        form = self.plural(count) if self.counts and count is not None else len(self.translations) - 1
        return self.translations[form] % written


@lru_cache(4096)
def _translate(code: str, text: str) -> str:
    if _ONLY_FIGURES.fullmatch(text):
        return _localize(code, text)
    if _is_quoted(text):
        return text
    whole = _match(code, text)
    if whole is not None:
        return whole
    parts = _translate_sentences, _translate_list, _translate_brackets, _translate_beside_figure
    return next((found for translate in parts if (found := translate(code, text)) is not None), text)


def _match(code: str, text: str) -> str | None:
    """A text that is one message."""
    texts, templates = _templates(code)
    if text in texts:
        return texts[text]
    capital, small = text[:1].upper() + text[1:], text[:1].lower() + text[1:]
    if capital != text and capital in texts:
        title = texts[capital]
        return title if code == "de" or title[1:2].isupper() else title[:1].lower() + title[1:]
    if small != text and small in texts:
        return texts[small][:1].upper() + texts[small][1:]
    found = next((one for template in templates if (one := template.write(code, text)) is not None), None)
    if found is None and len(text) > 1 and text[-1] in ".;:":
        whole = _match(code, text[:-1])
        return None if whole is None else f"{whole}{_mark(code, text[-1])}"
    return found


def _translate_sentences(code: str, text: str) -> str | None:
    """Several sentences: as many of them at once as are one message; the others stay."""
    ends = [match.span() for match in _SENTENCE_END.finditer(text)]
    if not ends:
        return None
    starts = [0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), len(text)]
    written, at, known = [], 0, False
    while at < len(starts):
        for stop in range(len(stops) - 1, at - 1, -1):
            piece = text[starts[at] : stops[stop]]
            found = None if (at, stop) == (0, len(stops) - 1) else _match(code, piece)
            if found is not None:
                written.append(found)
                known, at = True, stop + 1
                break
        else:
            piece = text[starts[at] : stops[at]]
            listed = _translate_list(code, piece.rstrip(".;:"))
            written.append(
                piece if listed is None else f"{listed}{_mark(code, piece[-1]) if piece[-1] in '.;:' else ''}"
            )
            known, at = known or listed is not None, at + 1
    return " ".join(written) if known else None


def _translate_list(code: str, text: str) -> str | None:
    """Words in a row, when all of them are messages or figures."""
    for sign in ("; ", ", "):
        pieces, found = text.split(sign), list[str]()
        while len(pieces) > 0 and len(text.split(sign)) > 1:
            for stop in range(len(pieces), 0, -1):
                piece = sign.join(pieces[:stop])
                written = None if piece == text else _translate_piece(code, piece)
                if written is not None:
                    found.append(written)
                    del pieces[:stop]
                    break
            else:
                break
        if found and not pieces:
            return f"{_mark(code, sign[0])} ".join(found)
    return None


def _mark(code: str, sign: str) -> str:
    """A punctuation mark as a language sets it behind a word."""
    return f" {sign}" if code == "fr" and sign in ";:" else sign


def _translate_piece(code: str, text: str) -> str | None:
    if _ONLY_FIGURES.fullmatch(text):
        return _localize(code, text)
    return _match(code, text) or _translate_beside_figure(code, text)


def _translate_brackets(code: str, text: str) -> str | None:
    """Words with what stands in brackets behind them, when both are known."""
    words, opens, inside = text.partition(" (")
    if not opens or not inside.endswith(")"):
        return None
    found = [_translate(code, one) for one in (words, inside[:-1])]
    return None if found == [words, inside[:-1]] else f"{found[0]} ({found[1]})"


def _translate_beside_figure(code: str, text: str) -> str | None:
    """Words with a figure behind or before them: a model and its score, a number of faults."""
    words, _, figure = text.rpartition(" ")
    if words and re.fullmatch(_COUNT, figure):
        found = _match(code, words)
        return None if found is None else f"{found} {_localize(code, figure)}"
    figure, _, words = text.partition(" ")
    found = _match(code, words) if words and re.fullmatch(_COUNT, figure) else None
    return None if found is None else f"{_localize(code, figure)} {found}"


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in "'\"`" and text[-1] == text[0]


def _read_count(text: str) -> int | None:
    digits = text.replace(",", "")
    return int(digits) if digits.isdecimal() else None


def _localize(code: str, text: str) -> str:
    point, comma = _number_signs(code)
    signs = {".": point, ",": comma}
    text = re.sub(r"(?<=\d) to (?=[−+-]?\d)", f" {load_language(code).gettext('to')} ", text)
    return _FIGURE.sub(lambda match: re.sub(r"[.,]", lambda sign: signs[sign[0]], match[0]), text)


@cache
def _number_signs(code: str) -> tuple[str, str]:
    from babel.numbers import get_decimal_symbol, get_group_symbol

    return get_decimal_symbol(code), get_group_symbol(code)


@cache
def _templates(code: str) -> tuple[Mapping[str, str], Sequence[_MessageTemplate]]:
    """The sentences of a language: those without values, and the templates, the most definite first."""
    catalog = read_language_file(code)
    if catalog is None:
        return {}, ()
    texts: dict[str, str] = {}
    templates = []
    plural = c2py(catalog.plural_expr)
    for message in catalog:
        strings = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
        forms = [form for form in strings if form]
        is_sentence, counts = read_sentence_comment(message.auto_comments)
        if not is_sentence or len(forms) < len(strings):
            continue
        ids = message.id if isinstance(message.id, (tuple, list)) else (message.id,)
        if len(ids) == 1 and not re.search(r"%\(\w+\)s", ids[0]):
            texts[ids[0]] = forms[0]
        else:
            templates += [_compile(id, counts, forms, plural) for id in ids]
    return texts, sorted(templates, key=lambda template: -template.weight)


def _compile(id: str, counts: str, forms: Sequence[str], plural: Callable[[int], int]) -> _MessageTemplate:
    """One form of a message as a pattern, with the translations of all its forms."""
    pattern, quoted, at = "", set(), 0
    names: list[str] = []
    for match in _PLACEHOLDER.finditer(id):
        pattern += re.escape(id[at : match.start()])
        at = match.end()
        name = match[1]
        if name is None:
            pattern += "%"
        elif name in names:
            pattern += f"(?P={name})"
        else:
            names.append(name)
            pattern += f"(?P<{name}>{_pattern_of(name, counts)})"
            if name.startswith("quoted_") or (match.start() and id[match.start() - 1] in _QUOTES):
                quoted.add(name)
    pattern += re.escape(id[at:])
    weight = len(_PLACEHOLDER.sub("", id))
    return _MessageTemplate(re.compile(pattern, re.DOTALL), counts, tuple(forms), plural, frozenset(quoted), weight)


def _pattern_of(name: str, counts: str) -> str:
    if name.startswith("quoted_"):
        return _QUOTED
    if name == "how":
        return _CLAUSE
    return _COUNT if name in ("count", counts) or name.endswith("_figure") else _VALUE


def read_sentence_comment(comments: Sequence[str]) -> tuple[bool, str]:
    """Whether a message is a sentence of another package, and the placeholder that decides between its plural forms."""
    for comment in comments:
        mark, _, counts = comment.partition(", counted by ")
        if mark == SENTENCE:
            return True, counts
    return False, ""
