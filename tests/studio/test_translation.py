"""The languages of pages: each is complete, and no page breaks in one."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from luthier.studio import pages
from luthier.studio.translation import (
    COOKIE,
    LANGUAGES,
    gettext,
    load_language,
    use_language,
    write_figure,
    write_moment,
)
from studio.conftest import URL, Browser
from studio.test_pages import PAGES

OTHERS = [code for code in LANGUAGES if code != "en"]
MORE = ["/projects/tickets/run", "/projects/tickets/report", "/label", "/label/new", "/review", "/people", "/nothing"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that keeps the files of languages."""
    file = Path(__file__).parent.parent.parent / "scripts" / "translations.py"
    spec = importlib.util.spec_from_file_location("translations", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    use_language("en")
    yield
    use_language("en")


@pytest.mark.parametrize("code", OTHERS)
def test_every_text_is_translated(script: ModuleType, code: str) -> None:
    assert list(script.find_problems(code, script.extract_messages())) == []


@pytest.mark.parametrize("code", OTHERS)
def test_code_in_a_text_stays_as_it_is(script: ModuleType, code: str) -> None:
    for message in script.read_catalog(code):
        if message.id:
            texts = message.string if isinstance(message.string, tuple) else (message.string,)
            id = message.id[0] if isinstance(message.id, tuple) else message.id
            wanted = sorted(re.findall(r"`[^`]*`", id))
            assert all(sorted(re.findall(r"`[^`]*`", text)) == wanted for text in texts), id


def test_problems_of_a_file_are_found(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = script.Catalog()
    for message in ("a", "b", "%(n)s c", ("%(n)s d", "%(n)s ds"), "e"):
        template.add(message)
    monkeypatch.setattr(script, "LOCALE", tmp_path)
    script.update_catalog("de", template)
    written = (tmp_path / "de.po").read_text()
    written = written.replace('msgid "a"\nmsgstr ""', '#, fuzzy\nmsgid "a"\nmsgstr "A"')
    written = written.replace('msgid "%(n)s c"\nmsgstr ""', 'msgid "%(n)s c"\nmsgstr "C"')
    written = written.replace('msgid "e"', 'msgid "gone"')
    (tmp_path / "de.po").write_text(written)
    found = "\n".join(script.find_problems("de", template))
    for words in (
        "'a' is fuzzy",
        "'b' is not trans",
        "c' has other pl",
        "d' is not trans",
        "'e' is not in",
        "not used",
    ):
        assert words in found
    script.update_catalog("de", template)
    again = (tmp_path / "de.po").read_text()
    assert 'msgid "gone"' not in again
    script.update_catalog("de", template)
    assert (tmp_path / "de.po").read_text() == again


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_is_read_quickly_and_once(code: str) -> None:
    load_language.cache_clear()
    began = time.process_time()
    first = load_language(code)
    assert time.process_time() - began < 1, "a tenth of this on an idle machine"
    assert load_language(code) is first


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_page_breaks_in_a_language(browser: Browser, project: Path, code: str) -> None:
    browser.cookies.set(COOKIE, code)
    for page in [*PAGES, *MORE]:
        found = browser.get(page)
        assert found.status_code == (404 if page == "/nothing" else 200), page
        if "<html" in found.text:
            assert f'<html lang="{code}"' in found.text, page
        assert "%(" not in found.text, page


@pytest.mark.parametrize("code", OTHERS)
def test_no_page_of_a_run_breaks_in_a_language(browser: Browser, made: Path, code: str) -> None:
    browser.cookies.set(COOKIE, code)
    for page in [*PAGES, "/projects/tickets/report"]:
        found = browser.get(page)
        assert found.status_code == 200, page
        assert "%(" not in found.text, page


def test_a_page_is_in_the_language_that_a_browser_accepts(browser: Browser, project: Path) -> None:
    assert "Nothing was run yet" in browser.get("/runs").text
    asked = {"accept-language": "tlh, de-AT;q=0.9, fr;q=0.8, en;q=nonsense"}
    page = browser.get("/runs", headers=asked).text
    assert "Noch wurde nichts ausgeführt" in page
    assert '<html lang="de"' in page


def test_a_language_is_chosen_and_kept(browser: Browser) -> None:
    page = browser.submit("/language", language="de")
    assert browser.cookies.get(COOKIE) == "de"
    assert "Projekte" in page.text
    assert re.search(r'value="de" lang="de" aria-current="true"', page.text)
    assert "Projekte" in browser.get("/", headers={"accept-language": "fr"}).text, "what was chosen goes first"
    browser.submit("/language", language="klingon")
    assert browser.cookies.get(COOKIE) == "de"


def test_a_stranger_and_a_mistake_are_answered_in_the_language_too(stranger: TestClient, browser: Browser) -> None:
    asked = {"accept-language": "de"}
    assert "Diese Seite gibt es nicht" in browser.get("/nothing", headers=asked).text
    browser.cookies.clear()
    assert "Dieser Browser ist hier nicht bekannt" in stranger.get(f"{URL}/", headers=asked).text


def test_the_form_of_a_recipe_is_translated(browser: Browser, project: Path) -> None:
    page = browser.get("/projects/tickets/recipe", headers={"accept-language": "de"}).text
    assert "Zeilen lesen, bereinigen und beurteilen" in page
    assert "Jede zufällige Wahl folgt aus dieser Zahl." in page
    for text in ("100 % of what %(name)s is", "%s", "", "no such text"):
        assert pages._translated(text) == text


@pytest.mark.parametrize(
    ("code", "number", "figure", "ago", "moment"),
    [
        ("en", "1,234,567", "0.5", "3 minutes ago", "05 Mar 14:07"),
        ("de", "1.234.567", "0,5", "vor 3 Minuten", "05 März 14:07"),
        ("fr", "1\u202f234\u202f567", "0,5", "il y a 3 minutes", "05 mars 14:07"),
    ],
)
def test_numbers_and_times_are_written_as_the_language_does(
    code: str, number: str, figure: str, ago: str, moment: str
) -> None:
    use_language(code)
    assert pages.format_number(1234567) == number
    assert write_figure(0.5, ".4g") == figure
    assert pages._bytes(5.5e9) == f"{figure.replace('0', '5')} GB"
    assert pages._duration(0.5) == f"{figure} s"
    assert pages._ago(datetime.now(UTC) - timedelta(seconds=200)) == ago
    assert pages._ago(datetime.now(UTC)) == gettext("just now")
    assert pages._ago(None) == ""
    assert write_moment(datetime(2026, 3, 5, 14, 7), "dd MMM HH:mm").replace(".", "") == moment


@pytest.mark.parametrize(("days", "german"), [(1, "vor 1 Tag"), (40, "vor 40 Tagen")])
def test_one_and_many_are_told_apart(days: int, german: str) -> None:
    use_language("de")
    assert pages._ago(datetime.now(UTC) - timedelta(days=days, seconds=5)) == german
