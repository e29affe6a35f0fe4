"""The languages of pages: texts come from `locale/LANGUAGE.po`, and English is what templates say."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from gettext import NullTranslations
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog
    from jinja2 import Environment

LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch", "fr": "Français"}
COOKIE = "luthier_language"
SENTENCE = "sentence"
"""The comment in a language's file of a message that other packages write and `message_templates` reads back."""
_language: ContextVar[str] = ContextVar("language", default="en")


def choose_language(request: Request) -> str:
    """The language that a browser chose on a page; else the first of those that it accepts and the studio has."""
    chosen = request.cookies.get(COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    accepted = request.headers.get("accept-language", "")
    weighted = [_weight(entry) for entry in accepted.split(",")]
    for _, code in sorted(weighted, key=lambda entry: -entry[0]):
        if code in LANGUAGES:
            return code
    return "en"


def _weight(text: str) -> tuple[float, str]:
    name, _, weight = text.partition(";q=")
    try:
        return float(weight or 1), name.strip().lower()[:2]
    except ValueError:
        return 0.0, ""


def use_language(code: str) -> None:
    """Write this request's page in a language."""
    _language.set(code)


def current_language() -> str:
    """The language of this request's page."""
    return _language.get()


def gettext(text: str) -> str:
    """A text of the studio in the language of this request's page."""
    return load_language(_language.get()).gettext(text)


def ngettext(one: str, many: str, count: int) -> str:
    """The same for a number of things."""
    return load_language(_language.get()).ngettext(one, many, count)


def write_figure(value: float, form: str) -> str:
    """A number by a format such as `.4g`, with the decimal sign of the page's language."""
    return use_decimal_sign(format(value, form))


def use_decimal_sign(figure: str) -> str:
    """A figure that is written with a point, with the decimal sign of the page's language."""
    code = _language.get()
    return figure if code == "en" else figure.replace(".", _decimal_sign(code))


@cache
def _decimal_sign(code: str) -> str:
    from babel.numbers import get_decimal_symbol

    return get_decimal_symbol(code)


def write_moment(moment: datetime, form: str) -> str:
    """A moment in this machine's time by a pattern of CLDR such as `dd MMM HH:mm`, in the language of the page."""
    from babel.dates import format_datetime

    return format_datetime(moment.astimezone().replace(tzinfo=None), form, locale=_language.get())


def install(environment: Environment) -> None:
    """Let templates write `_("…")` and `{% trans %}`."""
    environment.add_extension("jinja2.ext.i18n")
    environment.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]


@cache
def load_language(code: str) -> NullTranslations:
    """The translations of a language; of English none."""
    catalog = read_language_file(code)
    if catalog is None:
        return NullTranslations()
    import io

    from babel.messages.mofile import write_mo
    from babel.support import Translations

    packed = io.BytesIO()
    write_mo(packed, catalog)
    packed.seek(0)
    return Translations(packed)


@cache
def read_language_file(code: str) -> Catalog | None:
    """The file of a language; None for English and for a language without one."""
    path = files("luthier.studio") / "locale" / f"{code}.po"
    if not path.is_file():
        return None
    from babel.messages.pofile import read_po

    with path.open("rb") as file:
        return read_po(file, locale=code)
