"""Pictures and sounds of rows in the studio: small copies for those who may see what is masked, and for nobody else."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from luthier.people.accounts import add_person
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from media import picture, sound
from studio.conftest import URL, Browser, run_in

RECIPE = """\
luthier: 1
name: shown
steps:
  pictures:
    kind: prepare
    source: {kind: mediafolder, path: pictures, prompt: "What is {image} here?", answer: label}
    split: {test: 4}
  calls: {kind: prepare, source: {kind: mediafolder, path: calls}, split: {test: 4}}
  both: {kind: mix, data: [pictures, calls]}
"""
DATA = "/projects/shown/data"


@pytest.fixture
def shown(workspace: Path) -> Path:
    folder = workspace / "shown"
    for number in range(20):
        for name, below, content in (
            (f"{number}.png", "pictures", picture(seed=number, size=(300, 100))),
            (f"{number}.wav", "calls", sound(seed=number)),
        ):
            path = folder / below / ("one", "other")[number % 2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (folder / "recipe.yaml").write_text(RECIPE)
    run_in(workspace, "run", "shown/recipe.yaml")
    return folder


def _sizes(page: str) -> set[tuple[int, int]]:
    urls = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    return {Image.open(io.BytesIO(base64.b64decode(url))).size for url in urls}


def test_rows_show_small_copies(browser: Browser, shown: Path) -> None:
    page = browser.get(DATA, params={"step": "pictures"})
    assert page.text.count("<img src=") == 20
    assert _sizes(page.text) == {(96, 32)}
    assert re.search(r'alt="a picture \(png, 300 x 100 pixels, \d+ bytes\), [0-9a-f]{12}"', page.text)
    assert 'clip3">What is   here?<' in page.text
    assert "media-src 'self' data:" in page.headers["content-security-policy"]
    both = browser.get(DATA, params={"step": "both"}).text
    assert both.count("<audio controls") == 20
    row = re.search(rf'href="({DATA}/pictures/rows/[0-9a-f]+)"', page.text)
    assert row
    assert _sizes(browser.get(row[1]).text) == {(300, 100)}


def test_who_may_not_see_what_is_masked_sees_no_pictures(studio: Studio, shown: Path) -> None:
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root")
    for name, role in (("rita", "reviewer"), ("vera", "viewer")):
        add_person(studio.ledger, name, roles={"shown": role}, by="olga")
        browser = Browser(build_app(studio), base_url=URL)
        browser.cookies.set("luthier_studio", studio.sessions.start(name))
        page = browser.get(DATA, params={"step": "pictures"}).text
        row = re.search(rf'href="({DATA}/pictures/rows/[0-9a-f]+)"', page)
        assert row
        for text in (page, browser.get(row[1]).text):
            assert ("data:image/jpeg" in text) == (role == "reviewer")


def test_rows_whose_bytes_are_gone_are_shown_without(browser: Browser, shown: Path) -> None:
    for path in (shown / ".luthier" / "artifacts").glob("*/media/*.parquet"):
        path.parent.chmod(0o700)
        path.chmod(0o600)
        path.write_bytes(b"")
    page = browser.get(DATA, params={"step": "pictures"})
    assert page.status_code == 200
    assert "<img src=" not in page.text
    assert "20 of 20 rows" in page.text
