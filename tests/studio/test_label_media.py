"""Labeling and judging pictures and sounds: who gets their bytes, in which form, and what becomes of hostile ones."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from luthier.annotation.media import MediaLocation, split_content, write_item_media
from luthier.annotation.project import NewItem, add_items, get_project, update_settings
from luthier.annotation.project import list_projects as list_labelings
from luthier.annotation.question import QuestionItem
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.annotation.results import find_items
from luthier.chat.messages import MEDIA_MARK, Media
from luthier.commands.labeling.create import export_items, find_near_twins
from luthier.commands.projects.judging import publish_assignment
from luthier.core.store import Store
from luthier.eval.human.rating import STUDY_QUESTION
from luthier.people.accounts import add_person
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
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
    split: {test: 6}
  calls: {kind: prepare, source: {kind: mediafolder, path: calls}, split: {test: 4}}
  words: {kind: tune, data: pictures, technique: plain}
  report: {kind: evaluate, data: pictures, model: words, metrics: [accuracy]}
  people: {kind: human_eval, evaluation: report, annotators: open, question: {kind: rating}, models: [tuned], rows: 6}
"""
HOSTILE = b"<!doctype html><script>document.title = 'hacked'</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1'><script>1</script></svg>"


@pytest.fixture(scope="module")
def _shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictured") / "shown"
    for number in range(24):
        for name, below, content in (
            (f"{number}.png", "pictures", picture(seed=number, size=(1500 if number == 3 else 300, 100))),
            (f"{number}.wav", "calls", sound(0.3, seed=number)),
        ):
            path = folder / below / ("one", "other")[number % 2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (folder / "recipe.yaml").write_text(RECIPE)
    run_in(folder.parent, "run", "shown/recipe.yaml")
    return folder


@pytest.fixture
def shown(_shown: Path, workspace: Path) -> Path:
    """A project whose rows are pictures and sounds."""
    shutil.copytree(_shown, workspace / "shown")
    return workspace / "shown"


def make(browser: Browser, step: str, **more: str) -> str:
    """A labeling project of the rows of a step; its id."""
    told = {"name": "Topics", "kind": "choice", "labels": "one\nother", "project": "shown", "step": step, **more}
    answer = browser.submit("/label/new", **told)
    assert answer.status_code == 200, answer.text
    return str(answer.url.path.split("/")[2])


def fetch(browser: Browser, project: str) -> dict[str, Any]:
    item: dict[str, Any] = browser.submit(f"/label/{project}/next", held="[]").json()["item"]
    return item


def addresses(page: str) -> list[str]:
    return re.findall(r'(?:src|data-whole)="(/label/[^"]+)"', page)


def person(studio: Studio, name: str, role: str = "", project: str = "shown") -> Browser:
    add_person(studio.ledger, name, roles={project: role} if role else {}, by="olga")
    browser = Browser(build_app(studio), base_url=URL)
    browser.cookies.set("luthier_studio", studio.sessions.start(name))
    return browser


def test_pictures_are_labelled_as_texts_are(browser: Browser, studio: Studio, shown: Path, workspace: Path) -> None:
    project = make(browser, "pictures", overlap="2", gold="")
    first = fetch(browser, project)
    view, whole = addresses(first["html"])
    assert re.search(r"What is\s*</p>\s*<figure", first["html"])
    assert re.search(r'alt="Picture 1 \(png, \d+ × 100 pixels\)"', first["html"])
    for secret in ("other", "pictures/", MEDIA_MARK):
        assert secret not in first["html"].replace('value="other"', "").replace("<span>other</span>", "")
    answer = browser.get(whole)
    assert answer.headers["content-type"] == "image/png"
    assert hashlib.sha256(answer.content).hexdigest() == whole.rsplit("/", 1)[1]
    assert browser.get(view).status_code == 200
    for who, label in (("root", "one"), ("anna", "other")):
        queue = AnnotationQueue(studio.ledger, project)
        item = first["id"] if who == "root" else next(iter([queue.next_item(who)])).id  # type: ignore[union-attr]
        given = AnswerSubmission(id=f"{who}-answer", item=item, values={"answer": label})
        if who == "root":
            browser.submit(f"/label/{project}/submit", submission=given.model_dump_json())
        else:
            queue.submit(who, given)
    page = browser.get(f"/label/{project}/adjudicate").text
    assert "By majority" in page
    assert len(addresses(page)) == 2
    browser.submit(f"/label/{project}/adjudicate/{first['id']}", values='{"answer": "other"}')
    second = fetch(browser, project)["id"]
    browser.submit(f"/label/{project}/adjudicate/{second}", values='{"answer": "one"}')
    found = browser.get(f"/label/{project}/manage", params={"search": "here"}).text
    assert found.count("?side=160") == 24
    # the labels teach a model that sees the pictures
    export_items(studio.ledger, project, workspace / "labels.jsonl")
    lines = [json.loads(line) for line in (workspace / "labels.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    decided = next(line for line in lines if line["decision"])
    kinds = [part["type"] for part in decided["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "text"]
    studio.item_media.close()
    learnt = workspace / "learnt"
    learnt.mkdir()
    source = f"{{kind: annotations, project: {project}}}"
    (learnt / "recipe.yaml").write_text(
        "luthier: 1\nname: learnt\nsteps:\n"
        f"  data: {{kind: prepare, source: {source}, split: {{test: 0}}, task: label}}\n"
    )
    data = Recipe.load(learnt / "recipe.yaml", (), Workspace.open(workspace).with_folder(learnt)).run()["data"].artifact
    rows = [json.loads(text) for text in pl.read_parquet(data.path("examples/train.parquet"))["messages"]]
    taught = {asked["media"][0]["digest"]: answered["content"] for asked, answered in rows}
    assert taught[whole.rsplit("/", 1)[1]] == "other"
    assert sorted(taught.values()) == ["one", "other"]


def test_sounds_are_played_in_parts(browser: Browser, studio: Studio, shown: Path) -> None:
    project = make(browser, "calls")
    item = fetch(browser, project)
    assert "<audio controls" in item["html"]
    (address,) = addresses(item["html"])
    whole = browser.get(address)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/wav")
    assert whole.headers["accept-ranges"] == "bytes"
    size = len(whole.content)
    for asked, begin, end in (
        ("0-99", 0, 100),
        ("100-", 100, size),
        ("-50", size - 50, size),
        (f"0-{size * 9}", 0, size),
    ):
        part = browser.get(address, headers={"range": f"bytes={asked}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
        assert part.content == whole.content[begin:end]
    for asked in (f"{size}-", "9-3"):
        refused = browser.get(address, headers={"range": f"bytes={asked}"})
        assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}")
    assert browser.get(address, headers={"range": "bytes=a-b"}).status_code == 200


def test_large_pictures_come_smaller_first(browser: Browser, studio: Studio, shown: Path) -> None:
    project = make(browser, "pictures")
    sizes = {}
    for found in find_items(studio.ledger, project):
        (medium,) = found.item.shown.media
        base = f"/label/{project}/items/{found.item.id}/media/{medium.digest}"
        for side in ("", "1200", "160"):
            content = browser.get(base, params={"side": side}).content
            sizes[medium.width, side] = Image.open(io.BytesIO(content)).size
    assert sizes == {
        (300, ""): (300, 100), (300, "1200"): (300, 100), (300, "160"): (160, 53),
        (1500, ""): (1500, 100), (1500, "1200"): (1200, 80), (1500, "160"): (160, 11),
    }  # fmt: skip
    assert browser.get(base, params={"side": "99999"}).status_code == 400


def test_who_may_see_a_picture(browser: Browser, studio: Studio, shown: Path) -> None:
    project, other = make(browser, "pictures"), make(browser, "calls")
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root")
    stranger = Browser(build_app(studio), base_url=URL)
    anna, ben = (person(studio, name, "labeller", f"label/{project}") for name in ("anna", "ben"))
    rita, vera = person(studio, "rita", "reviewer"), person(studio, "vera", "viewer")
    item = fetch(anna, project)
    view, whole = addresses(item["html"])
    assert anna.get(whole).status_code == anna.get(view).status_code == 200
    assert rita.get(whole).status_code == 200, "reviewers see all items"
    assert ben.get(whole).status_code == 404, "an item that he never got"
    assert vera.get(whole).status_code == 403
    assert stranger.get(whole, follow_redirects=False).status_code in (303, 401)
    digest = whole.rsplit("/", 1)[1]
    (sound_item,) = find_items(studio.ledger, other, limit=1)
    for wrong in (
        f"/label/{project}/items/{sound_item.item.id}/media/{sound_item.item.shown.media[0].digest}",
        f"/label/{project}/items/{item['id']}/media/{sound_item.item.shown.media[0].digest}",
        f"/label/{project}/items/{item['id']}/media/{digest[:-1]}",
        f"/label/{project}/items/{item['id']}/media/..%2f..%2fledger.db",
        f"/label/{project}/items/1/media/{digest}",
        f"/label/000000000000/items/{item['id']}/media/{digest}",
    ):
        assert anna.get(wrong).status_code in (403, 404), wrong
        assert rita.get(wrong).status_code in (403, 404), wrong
    assert anna.get(f"/label/{other}/items/{sound_item.item.id}/media/{digest}").status_code == 403


def test_bytes_are_given_out_as_what_they_are_and_never_run(
    browser: Browser, studio: Studio, shown: Path, workspace: Path
) -> None:
    """A file that is HTML or SVG inside, whatever the row says that it is, is not given out."""
    project = make(browser, "pictures")
    item = fetch(browser, project)
    answer = browser.get(addresses(item["html"])[1])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
    assert answer.headers["cache-control"].startswith("private")
    assert answer.headers["vary"] == "cookie"
    assert "set-cookie" not in answer.headers
    for content, kind, format in (
        (HOSTILE, "image", "png"), (SVG, "image", "png"), (SVG, "image", "svg+xml"),
        (b"GIF89a" + HOSTILE, "image", "gif"),
        (HOSTILE, "audio", "wav"), (picture(), "audio", "wav"), (sound(), "image", "png"), (b"", "image", "png"),
    ):  # fmt: skip
        digest = hashlib.sha256(content).hexdigest()
        medium = Media(kind=kind, digest=digest, format=format, size=len(content))  # type: ignore[arg-type]
        write_item_media(workspace / ".luthier", medium, content)
        update_settings(studio.ledger, project, media=MediaLocation(store=".luthier"))
        turn = {"role": "user", "content": MEDIA_MARK, "media": [medium.model_dump(mode="json")]}
        add_items(studio.ledger, project, [NewItem(f"{digest}{kind}{format}", QuestionItem((turn,)))])
        found = next(
            one.item
            for one in find_items(studio.ledger, project, limit=99)
            if one.item.key == f"{digest}{kind}{format}"
        )
        answer = browser.get(f"/label/{project}/items/{found.id}/media/{digest}")
        assert answer.status_code == 404
        assert b"hacked" not in answer.content
        assert answer.headers["content-type"].startswith("text/html")
        assert studio.item_media.find_unreadable_media(get_project(studio.ledger, project), found.shown) == {digest}


@pytest.mark.parametrize("step", ["pictures", "calls"])
def test_labeling_goes_on_where_bytes_are_gone(browser: Browser, studio: Studio, shown: Path, step: str) -> None:
    project = make(browser, step)
    for path in (shown / ".luthier" / "artifacts").glob("*/media/*.parquet"):
        path.parent.chmod(0o700)
        path.chmod(0o600)
        path.write_bytes(b"")
    item = fetch(browser, project)
    assert "bytes are gone or broken" in item["html"]
    assert not addresses(item["html"])
    told = {"id": "browser-1", "item": item["id"], "values": {"answer": "one"}}
    assert browser.submit(f"/label/{project}/submit", submission=json.dumps(told)).json()["kept"]
    shutil.rmtree(shown / ".luthier" / "artifacts", ignore_errors=True)
    assert "bytes are gone or broken" in fetch(browser, project)["html"]
    digest = find_items(studio.ledger, project)[0].item.shown.media[0].digest
    assert browser.get(f"/label/{project}/items/{item['id']}/media/{digest}").status_code == 404


def test_a_flipped_byte_is_not_shown(browser: Browser, studio: Studio, shown: Path) -> None:
    project = make(browser, "pictures")
    item = find_items(studio.ledger, project)[0].item
    digest = item.shown.media[0].digest
    content = browser.get(f"/label/{project}/items/{item.id}/media/{digest}").content
    studio.item_media.close()
    for path in (shown / ".luthier" / "artifacts").glob("*/media/*.parquet"):
        path.chmod(0o600)
        stored = path.read_bytes()
        path.write_bytes(stored.replace(content[40:60], bytes(20)))
    assert browser.get(f"/label/{project}/items/{item.id}/media/{digest}").status_code == 404


def _zip(**files: bytes) -> dict[str, Any]:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return {"file": ("drop.zip", made.getvalue(), "application/zip")}


def _ask(browser: Browser, files: dict[str, Any], **more: str) -> Any:
    told = {"name": "Dropped", "kind": "choice", "labels": "cat\ndog", **more}
    return browser.submit("/label/new", **told, files=files)


def test_a_dropped_zip_of_pictures_without_classes_is_labelled(
    browser: Browser, studio: Studio, workspace: Path
) -> None:
    """Pictures that nobody has named yet: what labeling is for."""
    given = {f"photos/{number}.png": picture(seed=number) for number in range(3)}
    assert _ask(browser, _zip(**given)).status_code == 200
    (project,) = list_labelings(studio.ledger)
    items = [one.item for one in find_items(studio.ledger, project.id)]
    assert [item.key for item in items] == ["photos/0.png", "photos/1.png", "photos/2.png"]
    leased = fetch(browser, project.id)
    assert browser.get(addresses(leased["html"])[1]).headers["content-type"] == "image/png"
    assert "photos" not in leased["html"]
    assert len(list((workspace / ".luthier/labeling").glob("??/*"))) == 3
    again = {"photos/0.png": picture(seed=0)}
    assert _ask(browser, _zip(**again), labels="").status_code == 400
    assert len(list_labelings(studio.ledger)) == 1


def test_a_dropped_table_beside_its_files(browser: Browser, studio: Studio) -> None:
    table = b"file_name,text,truth\na.wav,How does she sound?,cat\nb.wav,And he?,dog\n"
    answer = _ask(browser, _zip(**{"metadata.csv": table, "a.wav": sound(), "b.wav": sound(seed=1)}), gold="truth")
    assert answer.status_code == 200, answer.text
    (project,) = list_labelings(studio.ledger)
    first, second = (one.item for one in find_items(studio.ledger, project.id))
    assert [part.text for part in split_content(first.shown.messages[0])] == ["", "How does she sound?"]
    assert first.shown.media[0].kind == "audio"
    assert (first.gold, second.gold) == ({"answer": "cat"}, {"answer": "dog"})
    assert "truth" not in first.hidden


def test_dropped_rows_that_hold_pictures(browser: Browser, studio: Studio) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    claimed = [{"kind": "image", "digest": "0" * 64, "format": "png", "size": 1}]
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    rows = [
        {"messages": [{"role": "user", "content": parts}]},
        {"messages": [{"role": "user", "content": "Which one?"}], "images": [url, url]},
        {"messages": [{"role": "user", "content": f"I claim {MEDIA_MARK}", "media": claimed}]},
    ]
    files = {"file": ("rows.jsonl", "\n".join(map(json.dumps, rows)).encode(), "application/jsonl")}
    assert _ask(browser, files).status_code == 200
    (project,) = list_labelings(studio.ledger)
    items = [one.item.shown for one in find_items(studio.ledger, project.id)]
    assert [len(item.media) for item in items] == [1, 2, 0]
    assert not any("base64" in json.dumps(item.messages) for item in items)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", HOSTILE, "not a picture"),
        ("a.png", SVG, "not a picture"),
        ("a.png", picture()[:80], "cannot be read"),
        ("a.wav", b"", "is empty"),
    ],
)
def test_a_dropped_file_that_is_no_picture_is_refused(
    browser: Browser, studio: Studio, workspace: Path, name: str, content: bytes, says: str
) -> None:
    answer = _ask(browser, _zip(**{"photos/fine.png": picture(), f"photos/{name}": content}))
    assert answer.status_code == 400
    assert says in answer.text
    assert not list_labelings(studio.ledger), "half a project"


def test_rows_that_only_name_pictures_are_refused(browser: Browser, studio: Studio) -> None:
    files = {"file": ("rows.jsonl", b'{"text": "which?", "image": "secret/a.png"}', "application/jsonl")}
    answer = _ask(browser, files)
    assert answer.status_code == 400
    assert "into one zip" in answer.text


def test_near_twins_show_the_same(browser: Browser, studio: Studio, shown: Path) -> None:
    project = make(browser, "pictures")
    items = [one.item.id for one in find_items(studio.ledger, project)]
    assert find_near_twins(studio.ledger, project, items[:1]) == items[:1], "the same question about other pictures"


@pytest.fixture
def study(studio: Studio, shown: Path) -> str:
    """A study of answers about pictures."""
    return publish_assignment(studio.workspace, studio.ledger, shown / "recipe.yaml", "people", by="root").id


def test_answers_about_pictures_are_judged(browser: Browser, studio: Studio, study: str) -> None:
    assert get_project(studio.ledger, study).settings.media == MediaLocation(
        store="shown/.luthier", dataset=Store(studio.workspace.folder / "shown/.luthier").open(
            get_project(studio.ledger, study).settings.assignment
        ).parent("evaluation").parent("data").digest,
    )  # fmt: skip
    for number in range(6):
        item = fetch(browser, study)
        _view, whole = addresses(item["html"])
        assert browser.get(whole).headers["content-type"] == "image/png"
        assert "tuned" not in item["html"]
        told = {"id": f"browser-{number}", "item": item["id"], "values": {STUDY_QUESTION: 4}}
        assert browser.submit(f"/label/{study}/submit", submission=json.dumps(told)).json()["kept"]
    assert browser.submit(f"/label/{study}/next", held="[]").json()["state"] == "done"
    assert browser.get(f"/judge/{study}/results").status_code == 200
