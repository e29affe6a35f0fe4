"""A person labels pictures and sounds in a real browser: by keys, enlarged and played, and where bytes are gone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.queue import AnnotationQueue
from luthier.commands.labeling.create import create_labeling_project, make_settings, open_rows
from luthier.core.db import Ledger
from luthier.recipe.workspace import Workspace
from media import picture, sound
from studio.conftest import start_studio

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium is not installed")
_PATIENCE_MS = 60_000
SHOTS = os.environ.get("LUTHIER_SHOTS")


@pytest.fixture
def project(workspace: Path) -> str:
    """A labeling project of two pictures, a third whose bytes are gone, a fourth whose bytes are broken, a sound."""
    dropped = workspace.parent / "dropped"
    dropped.mkdir()
    files = {f"{number}.png": picture(seed=number, size=(1300, 300)) for number in range(4)} | {"4.wav": sound(1.0)}
    for name, content in files.items():
        (dropped / name).write_bytes(content)
    here = Workspace.open(workspace)
    with here.open_ledger() as ledger:
        rows = open_rows(
            here, ledger, str(dropped.absolute()), make_settings("choice", ["cat", "dog"], guidelines="Look.")
        )
        made, count = create_labeling_project(ledger, "Animals", rows, by="root")
        assert count == 5
        items = [entry.shown.media[0].digest for entry in _items(ledger, made.id)]
    kept = {path.name: path for path in (workspace / ".luthier/labeling").glob("??/*")}
    kept[items[2]].unlink()
    return made.id


def _items(ledger: Ledger, project: str) -> list[Any]:
    from luthier.annotation.results import find_items

    return [found.item for found in find_items(ledger, project)]


@pytest.fixture
def page(workspace: Path, project: str) -> Iterator[Any]:
    """A page of a studio that has opened the link; messages of the policy and errors of scripts fail the test."""
    said: list[str] = []
    with start_studio(workspace) as server, playwright.sync_playwright() as driver:
        assert server.stdout is not None
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(json.loads(server.stdout.readline())["link"])
        page.wait_for_url("**/")
        yield page
        browser.close()
        server.terminate()
        server.wait(30)
    assert [text for text in said if "404" not in text] == []


def _shoot(page: Any, name: str) -> None:
    if SHOTS is None:
        return
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=f"{SHOTS}/{name}-{scheme}-{width}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


def _wait(page: Any, condition: str) -> None:
    """Wait for a condition that the page's policy lets no script of the driver look at again and again."""
    for _ in range(_PATIENCE_MS // 100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {condition}")


def _width(page: Any) -> int:
    return int(page.evaluate("document.querySelector('figure.shown img').naturalWidth"))


def test_pictures_and_sounds_are_labelled_by_keys(page: Any, project: str, workspace: Path) -> None:
    def answer(key: str, count: int) -> None:
        page.keyboard.press(key)
        page.locator(f"#mine[data-count='{count}']").wait_for()

    expect = playwright.expect
    page.goto(page.url.rstrip("/") + f"/label/{project}")
    image = page.get_by_role("img", name="Picture 1 (png, 1300 × 300 pixels)")
    image.wait_for()
    expect.set_options(timeout=_PATIENCE_MS)
    _wait(page, "document.querySelector('figure.shown img').complete")
    assert _width(page) == 1200, "a smaller copy at first"
    _shoot(page, "label-picture")
    page.keyboard.press("+")
    button = page.get_by_role("button", name="Enlarge")
    expect(button).to_have_attribute("aria-pressed", "true")
    _wait(page, "document.querySelector('figure.shown img').naturalWidth === 1300")
    assert page.evaluate("document.activeElement.className") == "view large", "arrow keys move what is seen"
    page.keyboard.press("ArrowRight")
    _wait(page, "document.querySelector('.view').scrollLeft > 0")
    _shoot(page, "label-picture-large")
    page.keyboard.press("+")
    expect(button).to_have_attribute("aria-pressed", "false")
    answer("1", 1)
    page.keyboard.press("Tab")  # the picture's own buttons are reached and pressed by keys alone
    _wait(page, "document.querySelector('figure.shown img').complete")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    answer("2", 2)
    page.get_by_text("Here stands a picture that cannot be shown").wait_for()
    assert page.locator("figure.shown").count() == 0
    _shoot(page, "label-picture-gone")
    answer("2", 3)
    # the bytes go while the item is on its way: the browser gets 404, and the page says so
    image.wait_for()
    page.evaluate("document.querySelector('figure.shown img').src = '/label/none'")
    page.get_by_text("Here stands a picture that cannot be shown").wait_for()
    answer("1", 4)
    page.locator("figure.shown audio").wait_for()
    _wait(page, "document.querySelector('audio').readyState > 0")
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(1.0)
    page.evaluate(
        "document.querySelector('audio').addEventListener('play', () => { document.body.dataset.played = 1 })"
    )
    page.keyboard.press(".")
    _wait(page, "document.body.dataset.played === '1'")
    _shoot(page, "label-sound")
    answer("2", 5)
    page.get_by_text("There is nothing more for you here").wait_for()
    with Workspace.open(workspace).open_ledger() as ledger:
        given = [answer.values["answer"] for answer in AnnotationQueue(ledger, project).answers()]
    assert given == ["cat", "dog", "dog", "cat", "dog"]
