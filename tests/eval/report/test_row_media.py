"""Rows of a report show their pictures and play their sounds: offline, bounded, and named where they cannot be."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from luthier.chat.media_codec import decode_audio, keep_media
from luthier.chat.media_preview import PREVIEW_SECONDS, preview_media
from luthier.core.artifact import Artifact
from luthier.eval.report import collect_media
from luthier.eval.report.collect import collect_report_facts, evaluation_facts
from luthier.eval.report.html import render_report_page, report_facts_to_json
from luthier.recipe.schema import Recipe
from media import picture, sound
from tests.eval.report.test_html import Page

RECIPE = """\
luthier: 1
name: shown
steps:
  pictures:
    kind: prepare
    source: {kind: mediafolder, path: pictures, prompt: "What is {image} here?", answer: label}
    split: {test: 6}
  calls:
    kind: prepare
    source: {kind: mediafolder, path: calls, prompt: "What is {audio} said?", answer: label}
    split: {test: 6}
  both: {kind: mix, data: [pictures, calls]}
  words: {kind: tune, data: both, technique: plain}
  report: {kind: evaluate, data: both, model: words, metrics: [accuracy]}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("shown")
    for number in range(40):
        for name, path, content in (
            (f"{number}.png", folder / "pictures", picture(size=(400 + number, 30), seed=number)),
            (f"{number}.wav", folder / "calls", sound(seed=number)),
        ):
            whole = path / ("one", "other")[number % 2] / name
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(content)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        made: Artifact = Recipe.load(folder / "recipe.yaml").run()["report"].artifact
    return made


def test_rows_show_pictures_and_players_that_need_no_network(report: Artifact) -> None:
    facts = collect_report_facts("shown", RECIPE, {"report": report})
    text = render_report_page(facts)
    page = Page(text)
    (evaluation,) = facts.evaluations
    rows = {row.id: row for row in (*evaluation.samples, *evaluation.fixed, *evaluation.broken)}
    assert len(rows) == 12
    assert set(evaluation.media) == set(rows)
    images = [tag for tag in page.all("img") if tag["src"].startswith("data:image/jpeg;base64,")]
    players = page.all("audio")
    assert images
    assert players
    assert all(tag["src"].startswith("data:audio/wav;base64,") for tag in players)
    assert all("controls" in tag and tag["aria-label"].startswith("Sound 1: a sound (wav") for tag in players)
    assert all(tag["alt"].startswith("Picture 1: a picture (png") for tag in images)
    for tag in images:
        shown = Image.open(io.BytesIO(base64.b64decode(tag["src"].partition(",")[2])))
        assert max(shown.size) == 320
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])  # type: ignore[index]
    assert "default-src 'none'" in policy
    assert "media-src data:" in policy
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    words = {row.text for row in rows.values()}
    assert any(re.fullmatch(r"What is \[picture 1\] here\?", word) for word in words)
    assert any(re.fullmatch(r"What is \[sound 1\] said\?", word) for word in words)
    assert "\ufffc" not in text
    assert "base64" not in report_facts_to_json(facts)
    told = json.loads(report_facts_to_json(facts))["evaluations"][0]["media"]
    assert {one["kind"] for media in told.values() for one in media} == {"image", "audio"}


def test_what_has_no_room_and_what_is_gone_is_named(report: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluation_facts("report", report)
    sizes = [len(one.url) for media in whole.media.values() for one in media]
    monkeypatch.setattr(collect_media, "MOST_BYTES", sum(sizes) // 2)
    some = evaluation_facts("report", report)
    urls = [one.url for media in some.media.values() for one in media]
    assert 0 < sum(map(len, urls)) <= sum(sizes) // 2
    assert "" in urls

    def refuse(*_: Any) -> bytes:
        from luthier.core.errors import DataError

        raise DataError("gone")

    monkeypatch.setattr("luthier.artifacts.media.MediaReader.read", refuse)
    gone = evaluation_facts("report", report)
    assert {one.url for media in gone.media.values() for one in media} == {""}
    assert all("a picture (" in one.title or "a sound (" in one.title for media in gone.media.values() for one in media)


def test_small_copies_are_small(tmp_path: Path) -> None:
    made = io.BytesIO()
    Image.new("RGB", (4000, 1000), (9, 200, 30)).save(made, "PNG")
    kept = keep_media(made.getvalue())
    copy = preview_media(kept.media, kept.content)
    assert copy.type == "image/jpeg"
    assert Image.open(io.BytesIO(copy.content)).size == (320, 80)
    long = keep_media(sound(seed=1, seconds=40, rate=44_100))
    samples, rate = decode_audio(preview_media(long.media, long.content).content)
    assert rate == 16_000
    assert len(samples) == PREVIEW_SECONDS * 16_000
