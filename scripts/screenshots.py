"""Take the pictures of `docs/howto/studio.md`: a studio over real projects, its pages in Chromium, one file each.

    python scripts/screenshots.py [--work FOLDER] [--to FOLDER] [--all]

Makes the projects in FOLDER (kept between calls; a temporary one by default): tickets of a shop, sorted by a plain
classifier that is released, served, asked and corrected, and a small language model tuned on replies. `--all` takes
every page at both widths and in both schemes, to look at. Needs playwright, chromium, pillow and SmolLM2.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TICKETS = """\
# Which team should answer a ticket?
luthier: 1
name: tickets
seed: 11
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: "{subject}\\n\\n{message}", answer: category}
    ops: [normalize, label_spelling, {kind: pii, action: mask}, exact_dedup]
    split: {test: 0.25}
    task: label
  tune: {kind: tune, data: data, technique: plain}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy, macro_f1]}
  gate: {kind: gate, evaluation: report, rules: ["accuracy >= 0.3"]}
  monitor:
    kind: monitor
    data: data
    evaluation: report
    signals: [latency, error_rate, {kind: metric, metric: accuracy}, unknown_words, confidence]
    alerts:
      - {expr: "accuracy < report - 0.1 on 40 labels", name: worse, severity: critical}
      - {expr: "latency.p95 > 2 over 10m", for: 5m}
"""
REPLIES = """\
# How the desk replies
luthier: 1
name: replies
seed: 3
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {kind: csv, path: replies.csv, prompt: message, answer: reply}
    ops: [normalize, exact_dedup]
    split: {test: 0.2}
  tune: {kind: tune, data: data, technique: {kind: lora, r: 8}, epochs: 1, batch_size: 4, learning_rate: 1.0e-3}
"""
PAGES = (
    "/", "/new", "/runs", "/projects/tickets", "/projects/tickets/recipe", "/projects/tickets/data",
    "/projects/tickets/report", "/projects/tickets/models", "/projects/tickets/watch", "/projects/replies/try",
    "/projects/empty", "/projects/empty/models", "/projects/empty/watch", "/projects/broken", "/projects/broken/recipe",
    "/nothing",
)  # fmt: skip
MOST_BYTES = 120_000


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def luthier(*words: str, cwd: Path) -> str:
    """What a command prints."""
    done = subprocess.run(  # noqa: S603  # this very program
        [sys.executable, "-m", "luthier", *words], cwd=cwd, check=False, capture_output=True, text=True
    )
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"luthier {' '.join(words)}: {done.stderr}")
    return done.stdout


def make_projects(work: Path) -> None:
    """The projects, once."""
    if (work / "tickets/recipe.yaml").exists():
        return
    for name in ("tickets", "replies", "empty", "broken"):
        (work / name).mkdir(parents=True)
    shutil.copy(ROOT / "recipes/support/tickets.csv", work / "tickets/tickets.csv")
    shutil.copy(ROOT / "recipes/support/tickets.csv", work / "empty/tickets.csv")
    with (work / "tickets/tickets.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["reply"].strip()][:60]
    with (work / "replies/replies.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["message", "reply"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (work / "tickets/recipe.yaml").write_text(TICKETS)
    (work / "replies/recipe.yaml").write_text(REPLIES)
    (work / "empty/recipe.yaml").write_text(TICKETS.replace("name: tickets", "name: empty"))
    (work / "broken/recipe.yaml").write_text(TICKETS.replace("metrics: [accuracy", "metrics: [acuracy"))
    luthier("run", "replies/recipe.yaml", cwd=work)
    write_traffic(work)


def write_traffic(work: Path) -> None:
    """A day of requests with what people said of them, as a log of another server."""
    first = luthier("run", "tickets/recipe.yaml", "--json", cwd=work)
    digest = json.loads(first)["steps"]["tune"]["artifact"]
    luthier("release", "tickets@prod", "tickets/recipe.yaml:tune", cwd=work)
    with (work / "tickets/tickets.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:240]
    begin = datetime.now(UTC) - timedelta(hours=20)
    lines = []
    for number, row in enumerate(rows):
        at = begin + timedelta(minutes=5 * number - (number % 7))
        label = row["category"].strip().lower()
        said = label if number % 6 and not (number > 170 and number % 2) else "refund"
        trace = {
            "id": f"chatcmpl-{number:04x}", "timestamp": at.isoformat(), "model": "tickets@prod", "release": digest,
            "messages": [{"role": "user", "content": row["message"][:600]}], "prompt_tokens": 60,
            "answer": {"role": "assistant", "content": said}, "completion_tokens": 1,
            "latency_s": 0.2 + 0.1 * (number % 9) / 3, "scores": {said: 0.74, "other": 0.26}, "user": row["customer"],
        }  # fmt: skip
        if number % 40 == 13:
            trace |= {"status": 503, "error": "the model is busy", "answer": None, "finish_reason": "error"}
        lines.append(trace)
        if number % 2:
            later = (at + timedelta(minutes=2)).isoformat()
            lines.append({"trace": trace["id"], "timestamp": later, "label": label, "by": "desk"})
            lines[-1] |= {"rating": 1.0 if said == label else -1.0}
    log = work / "traffic.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    luthier("traces", "import", str(log), "--in", "tickets/recipe.yaml", cwd=work)


@contextmanager
def open_studio(work: Path) -> Iterator[str]:
    """A studio over the projects; the link that opens it."""
    command = [sys.executable, "-m", "luthier", "studio", str(work), "--port", "0", "--json"]
    with subprocess.Popen(  # noqa: S603  # this very program
        command, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["link"]
        server.terminate()


def take(page: Any, path: Path, *, whole: bool = False) -> None:
    """One picture, with few colours so that it stays small."""
    from PIL import Image

    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(250)
    page.screenshot(path=path, full_page=whole, animations="disabled")
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    size = path.stat().st_size
    say(f"{path.name}: {size:,} bytes{'' if size <= MOST_BYTES or whole else '  TOO LARGE'}")


def settle(page: Any) -> None:
    """Wait until nothing says that it is loading."""
    page.wait_for_load_state("networkidle")
    until = time.monotonic() + 60
    while page.locator(".loading").count() and time.monotonic() < until:
        page.wait_for_timeout(300)


def take_guide(page: Any, base: str, to: Path) -> None:
    """The pictures of the guide, in its order."""
    page.goto(f"{base}/new")
    page.locator("input[name=name]").fill("my-tickets")
    take(page, to / "new.png")
    page.goto(f"{base}/projects/tickets/recipe")
    take(page, to / "recipe.png")
    page.goto(f"{base}/projects/tickets")
    settle(page)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("link", name="Open the report").wait_for(timeout=120_000)
    take(page, to / "run.png")
    page.goto(f"{base}/projects/tickets/models")
    take(page, to / "models.png")
    page.get_by_role("link", name=re.compile("Release…")).first.click()
    page.get_by_label("Some users (canary)").check()
    page.get_by_text("Both are compared").wait_for()
    page.locator("#effect").scroll_into_view_if_needed()
    take(page, to / "release.png")
    page.goto(f"{base}/projects/replies/try")
    chat(page)
    take(page, to / "try.png")
    page.goto(f"{base}/projects/tickets/watch?period=1d")
    settle(page)
    page.locator("#signals .chart").first.wait_for(timeout=60_000)
    page.set_viewport_size({"width": 1280, "height": 1500})
    take(page, to / "watch.png")


def chat(page: Any) -> None:
    """Ask the small model and its base, and look at a token."""
    if page.get_by_role("button", name="Start it").count():
        page.get_by_role("button", name="Start it").click()
    page.locator("#ask").wait_for(timeout=180_000)
    page.locator("textarea[name=text]").fill("My parcel has not come yet. Where is it?")
    page.get_by_text("Settings").click()
    page.locator("input[name=tokens]").fill("40")
    page.get_by_text("Settings").click()
    page.get_by_label("Show tokens").set_checked(True)
    page.locator("#send").click()
    page.locator("#halt").wait_for(state="hidden", timeout=120_000)
    page.locator(".token").nth(3).click()


def take_all(browser: Any, link: str, to: Path) -> None:
    """Every page at both widths and in both schemes."""
    base, cookies = link.partition("/open")[0], None
    for width, height in ((1280, 900), (390, 844)):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            if cookies is not None:
                context.add_cookies(cookies)
            page = context.new_page()
            page.goto(link if cookies is None else base)
            page.wait_for_url("**/")
            cookies = context.cookies()
            for address in PAGES:
                page.goto(f"{base}{address}")
                settle(page)
                if address.endswith("/try"):
                    chat(page)
                name = address.strip("/").replace("/", "-") or "home"
                take(page, to / f"{name}-{width}-{scheme}.png", whole=True)
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                if wide > 0:
                    say(f"  {address} is {wide} px wider than {width}")
            context.close()


def main() -> None:
    """Make, open, take."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--to", type=Path, default=ROOT / "docs/howto/studio")
    parser.add_argument("--all", action="store_true")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    os.environ.setdefault("PYTHONPATH", str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as spare:
        work = (chosen.work or Path(spare) / "projects").absolute()
        work.mkdir(parents=True, exist_ok=True)
        make_projects(work)
        chosen.to.mkdir(parents=True, exist_ok=True)
        with open_studio(work) as link, sync_playwright() as driver:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            if chosen.all:
                take_all(browser, link, chosen.to)
            else:
                page = browser.new_page(viewport={"width": 1280, "height": 860})
                page.goto(link)
                page.wait_for_url("**/")
                take_guide(page, link.partition("/open")[0], chosen.to)
            browser.close()


if __name__ == "__main__":
    main()
