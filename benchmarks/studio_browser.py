"""What the benchmark of the studio asks of Chromium: when a page is shown, and how long a key takes to the next item.

Times are taken by the page's own clock, from the event to the end of the first frame that shows what is waited for; the
same script measures the studio and its peers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 120_000
MARK = "item-"
"""Each text that is labelled begins with this and its number, so that the next one is known when it is shown."""

_PROBE = """
(() => {
  const find = new RegExp("item-(\\\\d+)");
  const number = () => (find.exec(document.querySelector(SELECTOR)?.textContent ?? "") ?? [])[1];
  let began = null, before = null;
  window.taken = [];
  addEventListener("keydown", (event) => {
    if (event.key !== KEY || !number()) return;
    began = event.timeStamp; before = number();
  }, true);
  const look = () => {
    if (began === null) return;
    const now = number();
    if (now === undefined || now === before) return;
    const from = began;
    began = null;
    requestAnimationFrame(() => setTimeout(() => window.taken.push(performance.now() - from)));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true, characterData: true });
})();
"""
_SHOWN = """
(() => {
  const look = () => {
    if (window.shownAt !== undefined || !document.querySelector(SELECTOR)) return;
    window.shownAt = null;
    requestAnimationFrame(() => setTimeout(() => { window.shownAt = performance.now(); }));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true });
  addEventListener("keydown", (event) => { window.firstKey ??= performance.now(); });
})();
"""
_CHANGE = """
([selector, event, pattern]) => new Promise((resolve) => {
  const before = document.querySelector(selector)?.textContent;
  const found = new RegExp(pattern);
  let began = null;
  addEventListener(event, (one) => { began ??= one.timeStamp; }, true);
  window.changed = new Promise((told) => {
    const observer = new MutationObserver(() => {
      const now = document.querySelector(selector)?.textContent;
      if (began === null || now === undefined || now === before || !found.test(now)) return;
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => told(performance.now() - began)));
    });
    observer.observe(document, { childList: true, subtree: true, characterData: true });
  });
  resolve();
})
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; each context in it is a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_page(browser: Any, url: str = "", cookies: dict[str, str] | None = None) -> Any:
    """A page of a fresh profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    if cookies:
        context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def wait_until(page: Any, condition: str) -> None:
    """Wait until an expression holds; a strict policy of the page does not let it be polled by the page itself."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"{page.url}: {condition}")
        time.sleep(0.02)


def time_shown(page: Any, address: str, selector: str) -> float:
    """Seconds from the start of the navigation to the frame that shows the first element that is meant."""
    page.add_init_script(_SHOWN.replace("SELECTOR", repr(selector)))
    page.goto(address, wait_until="commit")
    wait_until(page, "window.shownAt > 0")
    return float(page.evaluate("window.shownAt")) / 1000


def time_first_page(browser: Any, url: str, cookies: dict[str, str], path: str) -> tuple[float, float]:
    """Bytes that a fresh profile transfers for a page, and seconds until its scripts ran and it took a key."""
    page = new_page(browser, url, cookies)
    sizes: list[float] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.add_init_script(_SHOWN.replace("SELECTOR", "'main'"))
    page.goto(url + path, wait_until="domcontentloaded")
    page.keyboard.press("Tab")
    page.wait_for_load_state("networkidle")
    wait_until(page, "window.shownAt > 0 && window.firstKey > 0")
    ready = page.evaluate(
        "Math.max(performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd, shownAt, firstKey)"
    )
    page.context.close()
    return sum(sizes), float(ready) / 1000


def time_change(page: Any, selector: str, event: str, act: Any, pattern: str = "") -> float:
    """Seconds from an event to the frame in which an element says something else (that fits a pattern)."""
    page.evaluate(_CHANGE, [selector, event, pattern])
    act()
    return float(page.evaluate("window.changed")) / 1000


def probe_keys(page: Any, selector: str, key: str) -> None:
    """Take the time from each press of a key to the next item, from the next page on."""
    page.add_init_script(_PROBE.replace("SELECTOR", repr(selector)).replace("KEY", repr(key)))


def label_in_turn(pages: Sequence[Any], press: Any, rounds: int, pace_s: float, seed: int = 7) -> list[float]:
    """Let people label: each presses in turn, about every `pace_s`; returns all seconds from key to next item."""
    chance = random.Random(seed)
    for _ in range(rounds):
        for page in pages:
            before = page.evaluate("window.taken.length")
            press(page)
            time.sleep(chance.uniform(0.5, 1.5) * pace_s / len(pages))
            wait_until(page, f"window.taken.length > {before}")
    return [float(one) / 1000 for page in pages for one in page.evaluate("window.taken")]
