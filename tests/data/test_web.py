"""The source `web` against a site on this machine: manners, limits, attacks, what is kept, and what becomes text."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError, InputError, LuthierError
from luthier.core.system.public_http import PrivateAddressError, PublicOnlyBackend, is_public
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.sources.web import Web
from luthier.data.web import crawl, fetch, page, sitemap
from luthier.recipe.schema import Recipe
from tests.data.web_site import Reply, Site, article, serving
from tests.linear import assert_quick

HERE = Path()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.01)
    with serving() as site:
        yield site


def web(**settings: Any) -> Web:
    return Web(**{"delay_s": 0, "timeout_s": 5, "hosts": ("127.0.0.1",), **settings})


def read(source: Web, say: Callable[[str], None] = lambda text: None) -> list[SourceRecord | BrokenRow]:
    return list(source.records(HERE, say))


def texts(source: Web) -> list[str]:
    return [found.values["text"] if isinstance(found, SourceRecord) else f"! {found.problem}" for found in read(source)]


def problem(source: Web) -> str:
    """The one problem that stops, and that the same page dropped tells, too."""
    with pytest.raises(DataError) as caught:
        read(source)
    (broken,) = read(source.model_copy(update={"on_error": "drop"}))
    assert isinstance(broken, BrokenRow)
    assert broken.problem == caught.value.message
    assert caught.value.where.file == broken.file
    return broken.problem


# pages and sitemaps


def test_pages_come_in_order_with_their_main_text(site: Site) -> None:
    pages = (site.page("/b", "Beta"), site.page("/a", "Alpha"))
    records = read(web(pages=pages))
    assert [record.file for record in records] == list(pages)
    for record, title in zip(records, ("Beta", "Alpha"), strict=True):
        assert isinstance(record, SourceRecord)
        text = record.values["text"]
        assert f"{title} says: The parcel leaves" in text
        for remains in ("owned", "Shop", "Imprint", "<", "script"):
            assert remains not in text


def test_licence_robots_and_what_a_page_says_of_itself_go_into_meta(site: Site) -> None:
    more = (
        "<meta name='ROBOTS' content='noai, noimageai'><meta name='author' content='Ada Lovelace'>"
        "<meta property='article:published_time' content='2024-05-06'>"
        "<link rel='license' href='https://creativecommons.org/licenses/by/4.0/'>"
    )
    site.page("/a", "Alpha", more, **{"X-Robots-Tag": "noindex"})
    (record,) = read(web(pages=(site.root + "/a",)))
    assert isinstance(record, SourceRecord)
    assert record.values["robots"] == "noindex, noai, noimageai"
    assert record.values["licence"] == "https://creativecommons.org/licenses/by/4.0/"
    assert (record.values["author"], record.values["date"]) == ("Ada Lovelace", "2024-05-06")
    assert record.values["title"] == "Alpha"


@pytest.mark.parametrize("packed", [False, True])
def test_a_sitemap_an_index_and_a_list_name_the_same_pages(site: Site, *, packed: bool) -> None:
    pages = [site.page(f"/p{n}", f"Page{n}") for n in range(4)]
    one, two = site.sitemap("/one.xml", pages[:2]), site.sitemap("/two.xml", [*pages[1:], pages[3] + "#part"])
    index = f"<sitemapindex><sitemap><loc>{one}</loc></sitemap><sitemap><loc> {two} </loc></sitemap></sitemapindex>"
    site.replies["/index.xml"] = Reply(index.encode())
    site.replies["/list.txt"] = Reply("\n".join(["# ours", *pages]).encode())
    if packed:
        for name in ("/one.xml", "/two.xml", "/index.xml", "/list.txt"):
            reply = site.replies[name]
            assert isinstance(reply, Reply)
            site.replies[name] = Reply(gzip.compress(reply.body))
    for name in ("/index.xml", "/list.txt"):
        assert [found.file for found in read(web(sitemap=site.root + name))] == pages


def test_a_sitemap_that_names_itself_ends(site: Site) -> None:
    site.replies["/s.xml"] = Reply(
        f"<sitemapindex><sitemap><loc>{site.root}/s.xml</loc></sitemap></sitemapindex>".encode()
    )
    with pytest.raises(DataError, match="names no page"):
        read(web(sitemap=site.root + "/s.xml"))


def test_glob_and_limits_choose(site: Site) -> None:
    pages = [site.page(f"/{kind}/{n}", f"{kind}{n}") for n in range(3) for kind in ("help", "shop")]
    place = site.sitemap("/s.xml", pages)
    said: list[str] = []
    assert len(read(web(sitemap=place, glob="*/help/*"))) == 3
    assert len(read(web(sitemap=place, max_pages=2), said.append)) == 2
    assert any("more pages than the limit of 2" in text for text in said)
    assert len(read(web(sitemap=place, limit=1))) == 1
    with pytest.raises(DataError, match="names no page") as caught:
        read(web(sitemap=place, glob="*/blog/*"))
    assert "*/blog/*" in caught.value.hint


def test_entities_in_a_sitemap_are_not_unfolded(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("http://leaked.example/")
    lines = "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
    bomb = f"<!DOCTYPE x [<!ENTITY a0 'http://a.example/'>{lines}<!ENTITY f SYSTEM 'file://{secret}'>]>"
    data = f"{bomb}<urlset><url><loc>&a9;</loc></url><url><loc>&f;</loc></url><url><loc>http://b/</loc></url></urlset>"
    found: list[str] = []

    def parse() -> None:
        with contextlib.suppress(fetch.FetchError):
            found.extend(sitemap.parse_sitemap(data.encode())[0])

    assert_quick(parse, 2)
    assert not any("leaked" in address or len(address) > 100 for address in found)


# manners


def test_robots_txt_is_obeyed(site: Site) -> None:
    rules = "User-agent: *\nDisallow: /\n\nUser-agent: Luthier\nDisallow: /private*\nAllow: /private/open$\n"
    site.replies["/robots.txt"] = Reply(rules.encode())
    assert problem(web(pages=(site.page("/private/x"),))) == "robots.txt forbids it"
    assert "/private/x" not in site.paths()
    assert len(read(web(pages=(site.page("/private/open"), site.page("/public"))))) == 2
    assert problem(web(pages=(site.page("/other"),), user_agent="SomeBot/1.0 (Luthier)")) == "robots.txt forbids it"


def test_a_redirect_to_a_forbidden_page_is_not_followed(site: Site) -> None:
    site.replies["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /private")
    site.page("/private")
    site.replies["/open"] = Reply(status=302, headers={"Location": "/private"})
    assert problem(web(pages=(site.root + "/open",))) == "robots.txt forbids it"
    assert "/private" not in site.paths()


@pytest.mark.parametrize(("status", "asked"), [(404, True), (403, True), (500, False), (503, False)])
def test_a_robots_txt_that_is_missing_allows_and_one_that_fails_forbids(
    site: Site, status: int, *, asked: bool
) -> None:
    site.replies["/robots.txt"] = Reply(status=status)
    found = texts(web(pages=(site.page("/a"),), on_error="drop"))
    assert ("/a" in site.paths()) is asked
    assert asked or found[0].startswith(f"! its robots.txt the server answered {status}")


def test_a_host_is_asked_no_faster_than_it_is_told(site: Site) -> None:
    site.replies["/robots.txt"] = Reply(b"User-agent: *\nCrawl-delay: 0.3")
    read(web(pages=tuple(site.page(f"/{n}") for n in range(3)), delay_s=0.05))
    times = [each.at for each in site.asked]
    assert all(later - earlier > 0.28 for earlier, later in pairwise(times[1:]))
    site.asked.clear()
    site.replies.pop("/robots.txt")
    read(web(pages=tuple(site.page(f"/x{n}") for n in range(3)), delay_s=0.2, edition="2"))
    times = [each.at for each in site.asked]
    assert all(later - earlier > 0.18 for earlier, later in pairwise(times))


def test_a_host_that_wants_to_be_left_alone_for_hours_is_not_asked(site: Site) -> None:
    site.replies["/robots.txt"] = Reply(b"User-agent: *\nCrawl-delay: 100000")
    assert "wants 100000 s between two requests" in problem(web(pages=(site.page("/a"),)))
    assert "/a" not in site.paths()


def test_it_says_who_it_is(site: Site) -> None:
    said: list[str] = []
    read(web(pages=(site.page("/a"),), user_agent="Shopbot/2 (desk@shop.example)"), said.append)
    assert {each.headers["user-agent"] for each in site.asked} == {"Shopbot/2 (desk@shop.example)"}
    assert any("Shopbot/2" in text for text in said)
    assert not any("cookie" in each.headers for each in site.asked)


def test_a_busy_server_is_asked_again_and_a_missing_page_is_not(site: Site) -> None:
    calls = iter([503, 429])
    good = article("Alpha")

    def busy(handler: BaseHTTPRequestHandler) -> None:
        status = next(calls, 200)
        body = good if status == 200 else b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    site.replies["/busy"] = busy
    assert "Alpha says" in texts(web(pages=(site.root + "/busy",)))[0]
    assert problem(web(pages=(site.root + "/none",))) == "the server answered 404"
    assert site.paths().count("/busy") == 3
    assert site.paths().count("/none") == 2  # once for each of two crawls


# what is kept


def test_a_page_is_fetched_once_and_another_edition_asks_with_validators(site: Site) -> None:
    site.page("/a", "Alpha", **{"ETag": '"v1"', "Last-Modified": "Mon, 06 May 2024 07:08:09 GMT"})
    address = (site.root + "/a",)
    first = web(pages=address)
    before = (texts(first), first.fingerprint(HERE))
    count = len(site.asked)
    assert (texts(first), first.fingerprint(HERE)) == before
    assert len(site.asked) == count
    site.replies["/a"] = Reply(status=304)
    again = web(pages=address, edition="2")
    assert (texts(again), again.fingerprint(HERE)) == before
    assert site.asked[-1].headers["if-none-match"] == '"v1"'
    assert site.asked[-1].headers["if-modified-since"] == "Mon, 06 May 2024 07:08:09 GMT"
    site.page("/a", "Omega")
    third = web(pages=address, edition="3")
    assert "Omega says" in texts(third)[0]
    assert third.fingerprint(HERE) != before[1]
    assert (texts(first), first.fingerprint(HERE)) == before


def test_a_stopped_crawl_goes_on_where_it_was(site: Site) -> None:
    pages = [site.page(f"/{n}", f"Page{n}") for n in range(4)]
    site.replies["/2"] = Reply(status=500)
    with pytest.raises(DataError, match="answered 500") as caught:
        read(web(pages=tuple(pages), retries=0))
    assert "what was fetched is kept" in caught.value.hint
    site.page("/2", "Page2")
    assert [text.split()[0] for text in texts(web(pages=tuple(pages), retries=0))] == [f"Page{n}" for n in range(4)]
    assert [site.paths().count(f"/{n}") for n in range(4)] == [1, 1, 2, 1]


def test_a_crawl_says_how_far_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "_REPORT_EVERY_S", 0.0)
    pages = [site.page(f"/{n}", f"Page{n}") for n in range(2)]
    heard: list[str] = []
    read(web(pages=tuple(pages)), heard.append)
    assert [line.split(";")[0] for line in heard if " of 2 pages" in line] == ["1 of 2 pages", "2 of 2 pages"]


def test_a_damaged_copy_is_said(site: Site, tmp_path: Path) -> None:
    source = web(pages=(site.page("/a"),))
    read(source)
    (body,) = (tmp_path / "cache" / "web" / "bodies").iterdir()
    body.write_bytes(b"other")
    with pytest.raises(DataError, match="gone or damaged"):
        read(source)


def test_a_plan_fetches_nothing_and_a_run_is_cached(site: Site, tmp_path: Path) -> None:
    pages = [site.page(f"/{n}", f"Page{n}") for n in range(12)]
    place = site.sitemap("/s.xml", pages)
    recipe = tmp_path / "recipe.yaml"
    source = {
        "kind": "web",
        "sitemap": place,
        "delay_s": 0,
        "hosts": ["127.0.0.1"],
        "answer": "text",
        "on_error": "drop",
    }
    step = {"kind": "prepare", "source": source, "split": {"test": 3}, "task": "text"}
    recipe.write_text(json.dumps({"luthier": 1, "steps": {"data": step}}))
    site.replies["/5"] = Reply(status=404)
    Recipe.load(recipe).plan()
    assert site.asked == []
    made = Recipe.load(recipe).run()["data"]
    summary = json.loads((made.artifact.folder / "summary.json").read_text())
    assert (summary["rows_in"], summary["dropped"]) == (12, {"broken row": 1})
    count = len(site.asked)
    assert Recipe.load(recipe).run()["data"].cached
    assert Recipe.load(recipe).plan()["data"].cached
    assert len(site.asked) == count


# attacks


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/", "http://localhost:{port}/x", "http://[::1]:{port}/x", "http://10.0.0.1/",
     "http://0.0.0.0:{port}/x", "http://2130706433:{port}/x", "http://0x7f.1:{port}/x", "http://[::ffff:10.0.0.1]/"],
)  # fmt: skip
def test_a_redirect_into_a_private_network_is_refused(site: Site, target: str) -> None:
    target = target.format(port=site.port)
    site.page("/x")
    site.replies["/start"] = Reply(status=302, headers={"Location": target})
    assert "an address inside a private network" in problem(web(pages=(site.root + "/start",), retries=0))
    assert "/x" not in site.paths()


def test_a_private_address_is_refused_unless_its_host_is_named(site: Site) -> None:
    address = site.page("/a", "Alpha")
    with pytest.raises(DataError, match="an address inside a private network") as caught:
        read(web(pages=(address,), hosts=()))
    assert "name the host in `hosts`" in caught.value.hint
    with pytest.raises(DataError, match="an address inside a private network") as caught:
        read(web(sitemap=site.root + "/sitemap.xml", hosts=()))
    assert "name the host in `hosts`" in caught.value.hint
    assert site.asked == []


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["8.8.8.8", "192.168.0.1"], ["fe80::1"], ["64:ff9b::a00:1"]])
def test_a_name_that_means_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    _names(monkeypatch, {"evil.example": answers})
    with pytest.raises(PrivateAddressError, match=r"evil.example is .* inside a private network"):
        PublicOnlyBackend(()).resolved("evil.example", 80)
    assert PublicOnlyBackend(("evil.example",)).resolved("EVIL.example", 80) == answers[0]


def test_what_was_looked_at_is_what_is_connected_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time is not asked a second time."""
    site.page("/x")
    site.replies["/robots.txt"] = Reply(b"User-agent: *\nAllow: /")
    asked = _names(monkeypatch, {"rebinding.example": ["127.0.0.1"]})
    read(web(pages=(f"http://rebinding.example:{site.port}/x",), hosts=("rebinding.example",)))
    assert asked == ["rebinding.example"]  # one connection, kept for robots.txt and the page


def _names(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> list[str]:
    asked: list[str] = []
    true = socket.getaddrinfo

    def answer(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
        if host.lower() not in known:
            return list(true(host, port, *args, **more))
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host.lower()]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


PUBLIC = "8.8.8.8 2606:4700::1111"
INSIDE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 :: fe80::1%eth0 fc00::1 ff02::1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: ::127.0.0.1
192.0.0.192 nonsense"""


@pytest.mark.parametrize(
    ("address", "public"), [*((one, True) for one in PUBLIC.split()), *((one, False) for one in INSIDE.split())]
)
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert is_public(address) is public


def test_an_endless_redirect_ends(site: Site) -> None:
    site.replies["/round"] = Reply(status=301, headers={"Location": "/round"})
    assert problem(web(pages=(site.root + "/round",))) == "more than 5 redirects"


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.com/x", "gopher://x/", "http://[bad/", "https:"]
)
def test_a_redirect_to_what_is_no_page_is_refused(site: Site, location: str) -> None:
    site.replies["/start"] = Reply(status=302, headers={"Location": location})
    assert "URL" in problem(web(pages=(site.root + "/start",)))


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(b"<p>more</p>" * 1000)


def _drop_by_drop(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while True:
        handler.wfile.write(b".")
        handler.wfile.flush()
        time.sleep(0.05)


def _slow_header(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n")
        handler.wfile.flush()
        time.sleep(0.05)


def _silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def test_an_endless_body_is_cut(site: Site) -> None:
    site.replies["/endless"] = _endless
    assert problem(web(pages=(site.root + "/endless",), page_bytes=100_000)) == "is larger than 100000 bytes"


@pytest.mark.parametrize("act", [_drop_by_drop, _slow_header, _silent])
def test_a_slow_server_is_left(site: Site, act: Callable[[BaseHTTPRequestHandler], None]) -> None:
    site.replies["/slow"] = act
    source = web(pages=(site.root + "/slow",), timeout_s=0.4, retries=0, on_error="drop")
    assert texts(source) == ["! was not sent within 0.4 s"]


def _bomb(kind: str) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16 if kind == "gzip" else zlib.MAX_WBITS)
    return b"".join(pack.compress(b" " * (1 << 20)) for _ in range(60)) + pack.flush()


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_a_page_that_unpacks_to_gigabytes_is_cut(site: Site, kind: str) -> None:
    site.replies["/bomb"] = Reply(_bomb(kind), headers={"Content-Encoding": kind, "Content-Type": "text/html"})
    assert problem(web(pages=(site.root + "/bomb",), page_bytes=200_000)) == "is larger than 200000 bytes"


def test_a_sitemap_that_unpacks_to_gigabytes_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemap, "LIMIT", 100_000)
    site.replies["/s.xml.gz"] = Reply(_bomb("gzip"))
    with pytest.raises(DataError, match="larger than 100000 bytes"):
        read(web(sitemap=site.root + "/s.xml.gz"))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(b"%PDF", headers={"Content-Type": "application/pdf"}), "expected a page, got application/pdf"),
        (Reply(b"x", headers={"Content-Encoding": "br"}), "came packed as 'br'"),
        (Reply(b"x", headers={"Content-Encoding": "gzip"}), "packed in a damaged way"),
        (Reply(b"<html></html>", headers={"Content-Type": "text/html"}), "has no main text"),
        (Reply(b"", headers={"Content-Type": "text/html"}), "has no main text"),
        (Reply(b"<html><script>while(1);</script></html>"), "has no main text"),
        (Reply(b"\0\0\0"), "has no main text"),
    ],
)
def test_what_is_no_page_is_said(site: Site, reply: Reply, says: str) -> None:
    site.replies["/x"] = reply
    (broken,) = read(web(pages=(site.root + "/x",), on_error="drop"))
    assert isinstance(broken, BrokenRow)
    assert says in broken.problem


def test_a_server_that_speaks_nonsense_or_nobody_at_all_is_said(site: Site) -> None:
    site.replies["/x"] = lambda handler: handler.wfile.write(b"\x00\xffhello\r\n\r\n") and None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    for address in (site.root + "/x", closed, "http://no-such-host.invalid/"):
        (found,) = texts(web(pages=(address,), retries=0, on_error="drop"))
        assert "cannot be fetched" in found


# characters


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("<meta charset='utf-8'>Grüße €".encode(), {}),
        ("Grüße €".encode("cp1252"), {"content-type": "text/html; charset=utf-8"}),
        ("Grüße €".encode(), {"content-type": "text/html; charset=iso-8859-1"}),
        ("Grüße €".encode("cp1252"), {"content-type": "text/html; charset=windows-1252"}),
        ("Grüße €".encode("iso-8859-15"), {"content-type": 'text/html; charset="ISO-8859-15"'}),
        ("<meta http-equiv=Content-Type content='text/html; charset=iso-8859-15'>Grüße €".encode("iso-8859-15"), {}),
        ("Grüße €".encode("utf-16"), {}),
        ("Grüße €".encode("utf-8-sig"), {"content-type": "text/html; charset=utf-16"}),
        ("Grüße €".encode("utf-16-le"), {"content-type": "text/html; charset=utf-16le"}),
        ("Grüße €".encode("cp1252"), {"content-type": "text/html; charset=no-such-thing"}),
        ("Grüße €".encode("cp1252"), {"content-type": "text/html; charset=zip"}),
    ],
)
def test_a_wrong_or_missing_charset_does_no_harm(body: bytes, headers: dict[str, str]) -> None:
    assert page.decode_page(body, headers).endswith("Grüße €")


@given(
    st.binary(max_size=200), st.sampled_from(["", "text/html", "text/html; charset=utf-16", "text/plain; charset=hex"])
)
def test_any_bytes_become_text_or_a_reason(body: bytes, kind: str) -> None:
    assert isinstance(page.decode_page(body, {"content-type": kind}), str)


def test_adversarial_heads_are_read_in_linear_time() -> None:
    for piece in (b"<meta ", b"<meta charset", b"<meta charset= ", b'<meta charset="', b"<" * 3):
        assert_quick(partial(page.decode_page, piece * 200_000 + b"\xff", {"content-type": "charset " * 20_000}), 1.5)


# secrets and mistakes


def test_a_secret_in_an_address_stands_nowhere(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_TOKEN", "s3cr3t-t0ken")
    site.page("/a?token=s3cr3t-t0ken&page=1", "Alpha")
    records = read(web(pages=(site.root + "/a?token=$FEED_TOKEN&page=1",)))
    assert records[0].file == site.root + "/a?token=***&page=1"
    site.replies["/b?token=s3cr3t-t0ken"] = Reply(
        status=302, headers={"Location": "http://10.0.0.1/?token=s3cr3t-t0ken"}
    )
    with pytest.raises(DataError) as caught:
        read(web(pages=(site.root + "/b?token=$FEED_TOKEN",)))
    assert "s3cr3t" not in f"{caught.value}{records}"
    assert not any(b"s3cr3t" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    monkeypatch.delenv("FEED_TOKEN")
    with pytest.raises(InputError, match="no variable FEED_TOKEN"):
        read(web(pages=(site.root + "/c?token=$FEED_TOKEN",)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "either `sitemap` or `pages`"),
        ({"sitemap": "http://a/", "pages": ("http://b/",)}, "either `sitemap` or `pages`"),
        ({"pages": ("http://a/?api_key=12345",)}, "secret in clear"),
        ({"sitemap": "http://me:pass@a/"}, "secret in clear"),
        ({"sitemap": "http://a/", "user_agent": "x\r\nHost: b"}, "pattern"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Web(**settings)


@pytest.mark.parametrize(
    "address", ["notes.html", "file:///etc/passwd", "http:///x", "http://user@127.0.0.1/x", "http://ü/"]
)
def test_an_address_that_is_none_is_said(site: Site, address: str) -> None:
    assert problem(web(pages=(address,)))
    assert site.asked == []


def test_errors_are_the_users_and_crawls_are_told_apart(site: Site) -> None:
    with pytest.raises(LuthierError) as caught:
        read(web(sitemap=site.root + "/nothing.xml"))
    assert caught.value.where.field == "sitemap"
    assert crawl.load_finished_crawl(web(pages=("http://a/",)).crawl_request) is None
