"""Take the pictures of `docs/howto/studio.md`: a studio over real projects, its pages in Chromium, one file each.

    python scripts/screenshots.py [--work FOLDER] [--to FOLDER] [--all]

Makes the projects in FOLDER (kept between calls; a temporary one by default): tickets of a shop, sorted by a plain
classifier that is released, served, asked and corrected, and a small language model tuned on replies, whose answers
three people judge and review. `--all` takes every page at both widths and in both schemes, to look at. Needs
playwright, chromium, pillow and SmolLM2.
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
from collections.abc import Callable, Iterator
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
    split: {test: 0.4}
    task: text
  tune: {kind: tune, data: data, technique: {kind: lora, r: 8}, epochs: 1, batch_size: 4, learning_rate: 1.0e-3}
  report: {kind: evaluate, data: data, model: tune, metrics: [chrf], tasks: [], baselines: [], max_new_tokens: 40}
"""
TOPICS = ("delivery", "product_question", "returns", "damaged_item", "refund", "billing", "account", "cancellation")
PEOPLE = ("anna", "ben", "carla")
PASSWORD = "a password of pictures"  # noqa: S105  # of accounts that live for one picture
GUIDELINES = """\
Choose what the customer wants first.

A parcel that has not come is delivery. One that came broken is damaged_item, also where money is asked for.
"""
PAGES = (
    "/", "/new", "/runs", "/projects/tickets", "/projects/tickets/recipe", "/projects/tickets/data",
    "/projects/tickets/report", "/projects/tickets/models", "/projects/tickets/watch", "/projects/replies/try",
    "/projects/empty", "/projects/empty/models", "/projects/empty/watch", "/projects/broken", "/projects/broken/recipe",
    "/label", "/label/new", "/label/{labeling}", "/label/{labeling}/manage", "/label/{labeling}/adjudicate",
    "/judge", "/projects/replies/judge", "/judge/{judging}", "/label/{judging}", "/judge/{judging}/results", "/review",
    "/review/{review}", "/review/{review}/items", "/review/{review}/results", "/people", "/nothing",
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
    let_people_label(work)
    let_people_judge(work)
    let_people_review(work)


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


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answer_all(ledger: Any, project: str, choose: Callable[[str, Any], dict[str, Any]], most: int = 1000) -> None:
    """Let each person answer what the queue gives."""
    from luthier.annotation.queue import AnnotationQueue, AnswerSubmission

    queue = AnnotationQueue(ledger, project)
    for person in PEOPLE:
        for number in range(most):
            if (leased := queue.next_item(person)) is None:
                break
            told = AnswerSubmission(
                id=f"{person}-{leased.id}", item=leased.id, values=choose(person, leased), seconds=3.0 + number % 5
            )  # fmt: skip
            queue.submit(person, told)


def let_people_label(work: Path) -> None:
    """A labeling project of tickets with known answers and proposals, of which a part is answered."""
    from luthier.core.db import Ledger

    topics, rows = {}, read_rows(work / "tickets/tickets.csv")[:120]
    with (work / "tickets/to-label.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "known", "proposed"])
        for number, row in enumerate(rows):
            topic = row["category"].strip().lower().replace(" ", "_")
            if topic not in TOPICS or not row["message"].strip():
                continue
            topics[row["message"].strip()] = topic
            writer.writerow([row["message"], topic if number % 12 == 5 else "", topic if number % 5 else "refund"])
    (work / "tickets/guidelines.md").write_text(GUIDELINES)
    words = [word for topic in TOPICS for word in ("--label", topic)]
    luthier(
        "label", "create", "Topics of tickets", "--from", "tickets/to-label.csv", *words, "--text", "message", "--gold",
        "known", "--proposal", "proposed", "--overlap", "2", "--guidelines", "tickets/guidelines.md", cwd=work,
    )  # fmt: skip
    with Ledger(work / ".luthier/ledger.db") as ledger:
        (project,) = find_asked(ledger, "labeling")

        def choose(person: str, leased: Any) -> dict[str, Any]:
            right = topics.get(str(leased.shown.messages[-1]["content"]).strip(), "delivery")
            return {"answer": right if (leased.id + len(person)) % 7 else "refund"}

        answer_all(ledger, project, choose, most=45)


def find_asked(ledger: Any, purpose: Any) -> list[str]:
    """The ids of what people are asked for a purpose."""
    from luthier.annotation.project import list_projects

    return [project.id for project in list_projects(ledger, purpose=purpose)]


def list_asked(work: Path) -> dict[str, str]:
    """The id of what people are asked, for each purpose."""
    from luthier.core.db import Ledger

    with Ledger(work / ".luthier/ledger.db") as ledger:
        return {purpose: find_asked(ledger, purpose)[0] for purpose in ("labeling", "judging", "review")}


def let_people_judge(work: Path) -> None:
    """A study of the tuned model against its base, of which most is judged."""
    from luthier.commands.projects.judging import StudyRequest, open_study
    from luthier.core.db import Ledger
    from luthier.core.db.tables.annotation import AnnotationItemRow
    from luthier.recipe.workspace import Workspace

    with Ledger(work / ".luthier/ledger.db") as ledger:
        asked = StudyRequest("report", ("tuned", "base"), {"kind": "pair"}, rows=20, overlap=3)
        study = open_study(Workspace.open(work), ledger, work / "replies/recipe.yaml", asked, by="owner")

        def choose(person: str, leased: Any) -> dict[str, Any]:
            with ledger.reading() as session:
                row = session.get_one(AnnotationItemRow, leased.id)
                place = row.hidden["models"].index("tuned")
                place = 1 - place if list(leased.shown.answers) != row.shown["answers"] else place
            return {"judgment": "AB"[place if (leased.id + len(person)) % 6 else 1 - place]}

        answer_all(ledger, study.id, choose, most=18)


def let_people_review(work: Path) -> None:
    """A queue of replies that were served, of which a part is reviewed."""
    from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
    from luthier.commands.review.verdicts import submit_verdict
    from luthier.core.db import Ledger
    from luthier.recipe.workspace import Workspace

    begin, lines = datetime.now(UTC) - timedelta(hours=30), []
    for number, row in enumerate(read_rows(work / "replies/replies.csv")):
        trace = {
            "id": f"chatcmpl-r{number:04x}", "timestamp": (begin + timedelta(minutes=25 * number)).isoformat(),
            "model": "replies@prod", "messages": [{"role": "user", "content": row["message"][:500]}],
            "answer": {"role": "assistant", "content": row["reply"][:300]}, "prompt_tokens": 90,
            "completion_tokens": 60, "latency_s": 1.2 + number % 7 / 5, "user": f"C-{number % 20}",
        }  # fmt: skip
        lines.append(trace)
        if number % 9 == 4:
            said = {
                "trace": trace["id"],
                "timestamp": trace["timestamp"],
                "rating": -1.0,
                "comment": "This did not help.",
            }
            lines.append(said)
    (work / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    luthier("traces", "import", "replies.jsonl", "--in", "replies/recipe.yaml", cwd=work)
    luthier(
        "review", "create", "Daily review", "--project", "replies", "--chance", "0.5", "--thumbs-down",
        cwd=work,
    )  # fmt: skip
    own = Workspace.open(work)
    with Ledger(work / ".luthier/ledger.db") as ledger:
        (project,) = find_asked(ledger, "review")
        for number in range(18):
            leased = AnnotationQueue(ledger, project).next_item("anna")
            if leased is None:
                break
            values: dict[str, Any] = {"verdict": "wrong" if number % 4 == 1 else "right"}
            if number % 4 == 1:
                values |= {"types": [("incomplete", "wrong tone")[number % 8 // 5]]}
            submission = AnswerSubmission(id=f"review-{leased.id}", item=leased.id, values=values, seconds=20.0)
            submit_verdict(ledger, own, project, submission, by="anna")


def make_team(work: Path) -> Path:
    """Another workspace, with accounts."""
    from luthier.commands.people import add_account
    from luthier.core.db import Ledger
    from luthier.people.invitations import create_invitation
    from luthier.recipe.workspace import Workspace

    team = work / "team/shop"
    if not team.exists():
        (team / "tickets").mkdir(parents=True)
        shutil.copy(work / "tickets/tickets.csv", team / "tickets/tickets.csv")
        (team / "tickets/recipe.yaml").write_text(TICKETS)
        own = Workspace.open(team)
        for name, shown, role in (
            ("olga", "Olga Brandt", "owner"), ("edgar", "Edgar Lind", "editor"), ("rita", "Rita Moss", "reviewer"),
            ("anna", "Anna Weil", "labeller"), ("ben", "Ben Okoro", "labeller"),
        ):  # fmt: skip
            projects = [] if role == "owner" else ["tickets"]
            add_account(own, name, role, projects, shown=shown, email=None, password=PASSWORD)
        with Ledger(team / ".luthier/ledger.db") as ledger:
            create_invitation(ledger, "viewer", ["tickets"], by="olga", days=7)
    return team


@contextmanager
def open_studio(work: Path) -> Iterator[str]:
    """A studio over the projects; the link that opens it."""
    command = [sys.executable, "-m", "luthier", "studio", str(work), "--port", "0", "--json"]
    with subprocess.Popen(  # noqa: S603  # this very program
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LOGNAME": "olga"}
    ) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["link"]
        finally:
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


def take_people(page: Any, base: str, work: Path, to: Path) -> None:
    """The pictures of what people answered."""
    asked = list_asked(work)
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"{base}/label/{asked['labeling']}")
    page.locator("#bar").wait_for()
    page.keyboard.press("1")
    page.locator("#mine[data-count='1']").wait_for()
    take(page, to / "label.png")
    page.goto(f"{base}/label/{asked['labeling']}/manage")
    settle(page)
    page.set_viewport_size({"width": 1280, "height": 1150})
    take(page, to / "label-manage.png")
    page.goto(f"{base}/judge/{asked['judging']}/results")
    settle(page)
    take(page, to / "judge.png")
    page.goto(f"{base}/review/{asked['review']}")
    settle(page)
    while not page.locator(".message.user p").first.inner_text().isascii():
        page.get_by_role("button", name="Skip").click()
        settle(page)
    page.get_by_label("wrong", exact=True).check()
    field = page.get_by_label("What it should have said")
    field.fill(f"I am sorry about this. {field.input_value().rpartition('. ')[0]}. I write to you when it leaves.")
    page.locator("#diff ins").first.wait_for()
    page.get_by_label("incomplete").check()
    take(page, to / "review.png")


def take_accounts(browser: Any, work: Path, to: Path) -> None:
    """The page of people, in a workspace that has accounts."""
    with open_studio(make_team(work)) as link:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        base = link.rpartition("/")[0]
        page.goto(link)
        page.locator("input[name=name]").fill("olga")
        page.locator("input[name=password]").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/")
        page.goto(f"{base}/people")
        take(page, to / "people.png")


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


def take_all(browser: Any, link: str, work: Path, to: Path) -> None:
    """Every page at both widths and in both schemes."""
    base, cookies = link.partition("/open")[0], None
    asked = list_asked(work)
    for width, height in ((1280, 900), (390, 844)):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            if cookies is not None:
                context.add_cookies(cookies)
            page = context.new_page()
            page.goto(link if cookies is None else base)
            page.wait_for_url("**/")
            cookies = context.cookies()
            for page_address in PAGES:
                address = page_address.format(**asked)
                page.goto(f"{base}{address}")
                settle(page)
                if address.endswith("/try"):
                    chat(page)
                name = page_address.strip("/").replace("/", "-") or "home"
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
                take_all(browser, link, work, chosen.to)
            else:
                page = browser.new_page(viewport={"width": 1280, "height": 860})
                page.goto(link)
                page.wait_for_url("**/")
                take_guide(page, link.partition("/open")[0], chosen.to)
                take_people(page, link.partition("/open")[0], work, chosen.to)
                take_accounts(browser, work, chosen.to)
            browser.close()


if __name__ == "__main__":
    main()
