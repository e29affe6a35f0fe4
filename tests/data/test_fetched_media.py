"""Pictures that rows name by URL: fetched once under the rules of the web source; faults are told by file and line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.artifacts.dataset import list_splits, read_examples
from luthier.artifacts.media import MediaReader
from luthier.chat.media_codec import keep_media
from luthier.core.errors import DataError
from luthier.data.web import fetch
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from media import picture
from tests.data.web_site import Reply, Site, serving

FETCH: dict[str, Any] = {"delay_s": 0, "timeout_s": 5, "hosts": ["127.0.0.1"], "retries": 0}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.01)
    with serving() as site:
        for number in range(6):
            site.replies[f"/{number}.png"] = Reply(picture(seed=number), headers={"Content-Type": "image/png"})
        yield site


def recipe(folder: Path, addresses: list[str], fetch: Any = FETCH, **more: Any) -> Recipe:
    rows = [{"image": address, "prompt": f"Question {at}?", "answer": f"a{at}"} for at, address in enumerate(addresses)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = {"kind": "jsonl", "path": "rows.jsonl", "media_columns": {"image": "image"}, "fetch": fetch, **more}
    steps = {"data": {"kind": "prepare", "source": source, "task": "text", "split": {"test": 1}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"luthier": 1, "name": "fetched", "steps": steps}))
    return Recipe.load(folder / "recipe.yaml")


def run(made: Recipe) -> dict[str, bytes]:
    """The picture of each row, by its answer."""
    artifact = made.run()["data"].artifact
    with MediaReader(artifact) as reader:
        return {
            example.messages[-1].content: reader.read(example.messages[0].media[0].digest)
            for split in list_splits(artifact)
            for example in read_examples(artifact, split)
        }


def test_pictures_are_fetched_once_by_a_run_and_never_by_a_plan(site: Site, tmp_path: Path) -> None:
    addresses = [f"{site.root}/{number % 5}.png" for number in range(10)]
    made = recipe(tmp_path, addresses)
    build_recipe_plan(made)
    assert site.paths() == []
    found = run(made)
    assert found == {f"a{at}": keep_media(picture(seed=at % 5)).content for at in range(10)}
    assert sorted(site.paths()) == sorted(["/robots.txt", *(f"/{number}.png" for number in range(5))])
    asked = len(site.paths())
    assert run(Recipe.load(tmp_path / "recipe.yaml")) == found
    plan = build_recipe_plan(Recipe.load(tmp_path / "recipe.yaml"))
    assert [planned.cached for planned in plan] == [True]
    run(recipe(tmp_path, [*addresses[:6], f"{site.root}/5.png"]))
    assert site.paths()[asked:] == ["/robots.txt", "/5.png"]
    run(recipe(tmp_path, addresses[:3], {**FETCH, "edition": "2"}))
    assert set(site.paths()[asked + 2 :]) == {"/robots.txt", "/0.png", "/1.png", "/2.png"}


def _redirect(to: str) -> Reply:
    return Reply(status=302, headers={"Location": to})


@pytest.mark.parametrize(
    ("address", "reply", "problem"),
    [
        ("/gone.png", Reply(status=404), "the server answered 404"),
        ("/secret/a.png", Reply(picture(seed=9)), "robots.txt forbids it"),
        ("/to-secret.png", _redirect("/secret/a.png"), "robots.txt forbids it"),
        ("/to-private.png", _redirect("http://10.0.0.1/a.png"), "private network"),
        ("/to-file.png", _redirect("file:///etc/passwd"), "no http or https URL"),
        ("/round.png", _redirect("/round.png"), "more than 5 redirects"),
        ("/large.png", Reply(b"x" * 70_000), "larger than 60000 bytes"),
        ("/page.png", Reply(b"<html>Not here</html>"), "not a picture"),
        ("http://10.0.0.1/a.png", None, "private network"),
        ("http://169.254.169.254/latest/meta-data", None, "private network"),
        ("ftp://127.0.0.1/a.png", None, "no http or https URL"),
    ],
)
def test_what_cannot_be_had_is_told_by_file_and_line(
    address: str, reply: Reply | None, problem: str, site: Site, tmp_path: Path
) -> None:
    site.replies["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /secret/\n")
    if reply is not None:
        site.replies[address] = reply
        address = site.root + address
    settings = {**FETCH, "file_bytes": 60_000}
    addresses = [f"{site.root}/0.png", address, f"{site.root}/1.png", f"{site.root}/2.png"]
    with pytest.raises(DataError, match=problem) as caught:
        recipe(tmp_path, addresses, settings).run()
    assert "rows.jsonl:2" in str(caught.value) or (caught.value.where.line == 2)
    assert caught.value.hint
    found = run(recipe(tmp_path, addresses, settings, on_error="drop"))
    assert sorted(found) == ["a0", "a2", "a3"]
    assert "/secret/a.png" not in site.paths()


def test_urls_are_refused_where_nothing_says_that_they_are_fetched(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="media are not fetched") as caught:
        recipe(tmp_path, [f"{site.root}/0.png"], None).run()
    assert "fetch: {}" in (caught.value.hint or "")
    assert site.paths() == []


def test_a_host_of_ones_own_network_is_named_in_the_hint(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="private network") as caught:
        recipe(tmp_path, [f"{site.root}/0.png"], {"delay_s": 0}).run()
    assert "`fetch: {hosts: […]}`" in (caught.value.hint or "")


def test_a_secret_of_an_address_is_not_shown(site: Site, tmp_path: Path) -> None:
    site.replies["/0.png?token=verysecretvalue0123456789"] = Reply(status=404)
    with pytest.raises(DataError, match="answered 404") as caught:
        recipe(tmp_path, [f"{site.root}/0.png?token=verysecretvalue0123456789"]).run()
    assert "verysecretvalue" not in str(caught.value)


def test_a_killed_fetch_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    addresses = [f"{site.root}/{number}.png" for number in range(4)]

    def drop(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        threading.Event().wait(0.01)

    good = site.replies["/3.png"]
    site.replies["/3.png"] = drop
    with pytest.raises(DataError, match="cannot be fetched"):
        recipe(tmp_path, addresses).run()
    site.replies["/3.png"] = good
    asked = len(site.paths())
    assert len(run(recipe(tmp_path, addresses))) == 4
    assert site.paths()[asked:] == ["/robots.txt", "/3.png"]


@pytest.mark.regression
def test_an_address_in_a_row_never_reads_the_environment(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "abc123")
    monkeypatch.delenv("UNSET_NAME", raising=False)
    for name in ("$OUR_SECRET", "$UNSET_NAME"):
        site.replies[f"/{name}.png"] = Reply(picture(seed=7), headers={"Content-Type": "image/png"})
    found = run(recipe(tmp_path, [f"{site.root}/$OUR_SECRET.png", f"{site.root}/$UNSET_NAME.png"]))
    assert len(found) == 2
    assert not any("abc123" in path for path in site.paths())
