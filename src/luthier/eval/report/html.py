"""The report as one HTML page that needs nothing else: style, pictures and script stand in it; nothing is fetched.

A content security policy names the page's own style and script by their hashes: even a script that slipped into the
text would not run, and no address could be called.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from luthier.artifacts.explanation_picture import render_picture_heat
from luthier.eval.report import formatting, search_charts, views
from luthier.eval.report.facts.models import LOWER_IS_BETTER
from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.formatting import verdict_sentence
from luthier.eval.report.palette import DARK, LIGHT, render_css_variables
from luthier.eval.report.report_charts import (
    ReportCharts,
    order_metrics,
    select_model_comparisons,
    select_probe_comparisons,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def _same(text: str) -> str:
    return text


def _choose_form(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


@dataclass(frozen=True)
class PageLanguage:
    """The language of a report's page, given by whoever shows it; English unless another is given."""

    code: str = "en"
    gettext: Callable[[str], str] = _same
    """Translates what the templates say."""
    ngettext: Callable[[str, str, int], str] = _choose_form
    translate_message: Callable[[str], str] = _same
    """Translates a sentence that is in the facts, in English."""
    localize_figures: Callable[[str], str] = _same
    """Writes figures with the language's signs."""


ENGLISH = PageLanguage()


def render_report_page(facts: ReportFacts, language: PageLanguage = ENGLISH) -> str:
    """The page as text; the same facts give the same text."""
    style, script = _style(), _asset("page.js")
    allowed = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy = f"default-src 'none'; img-src data:; media-src data:; {allowed}; base-uri 'none'; form-action 'none'"
    template = _environment(language).get_template("page.html.jinja")
    return template.render(facts=facts, pictures=ReportCharts(), style=style, script=script, policy=policy)


def report_facts_to_json(facts: ReportFacts) -> str:
    """The facts as JSON text, sorted, for programs."""
    return json.dumps(facts.as_json(), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


@cache
def _environment(language: PageLanguage) -> Environment:
    """The templates, compiled once for all pages of a language."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("luthier.eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        n=formatting if language == ENGLISH else _TranslatedFunctions(formatting, language),
        language=language.code,
        views=views,
        searching=search_charts,
        order_metrics=order_metrics,
        shown_comparisons=select_model_comparisons,
        shown_probed=select_probe_comparisons,
        sentence=verdict_sentence,
        lower_is_better=LOWER_IS_BETTER,
        draw_picture=render_picture_heat,
    )
    environment.add_extension("jinja2.ext.i18n")
    callables: Any = environment
    callables.install_gettext_callables(language.gettext, language.ngettext, newstyle=True)
    environment.filters["translated"] = language.translate_message
    environment.filters["figures"] = language.localize_figures
    environment.filters["tied"] = _tied
    environment.filters["clip"] = formatting.truncate_text
    return environment


class _TranslatedFunctions:
    """The functions of a module that write text, in a language."""

    def __init__(self, module: ModuleType, language: PageLanguage) -> None:
        self._module, self._language = module, language

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)

        def write(*values: Any) -> Any:
            written = found(*values)
            return self._language.translate_message(written) if isinstance(written, str) else written

        return write if callable(found) else found


def _tied(text: str) -> str:
    """Text whose numbers stay together with their sign and unit at the end of a line."""
    for loose in ("p < ", "p = ", "95 %"):
        text = text.replace(loose, loose.replace(" ", "\u00a0"))
    return text


def _style() -> str:
    light, dark = render_css_variables(LIGHT), render_css_variables(DARK)
    schemes = (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-scheme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-scheme=dark]{{color-scheme:dark;{dark}}}"
        f"@media print{{:root,:root[data-scheme]{{color-scheme:light;{light};--paper:#ffffff}}}}"
    )
    return schemes + "\n" + _asset("page.css")


def _asset(name: str) -> str:
    return (files("luthier.eval.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
