"""The studio in Chromium, beside peers: its first page, tables, labelling, import, and watchers of a run.

    python benchmarks/studio.py [--quick] [--only PART ...] [--tables FOLDER]
                                [--gradio PYTHON] [--label-studio PYTHON] [--doccano PYTHON]

A peer lives in an environment of its own, whose Python is named by its option; without it the comparison is left out,
which is said. Tables are prepared from made-up rows; `--tables FOLDER` keeps them there for the next time. Six people
label in six profiles of one browser on the machine that serves them, so that their pages and the server share its
cores. Times are taken by the pages' own clocks up to the frame that shows the result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.core.db import Ledger
from studio_browser import chromium, label_in_turn, new_page, probe_keys, time_change, time_first_page, time_shown
from studio_peers import Doccano, GradioTable, LabelStudio, WebPeer

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.studio.labelling_server import PERSON, LabellingServer, open_session  # the path has it now

PEOPLE = ("ann", "ben", "cid", "dot", "eve", "fay")
LABELS = ("delivery", "refund", "account", "billing", "technical", "other", "complaint", "praise")
WORDS = tuple(
    "where is my parcel order refund money back account login password invoice charge card delivery late broken "  # noqa: SIM905
    "screen update please help cannot thanks address change cancel subscription".split()
)
FIGURES: list[dict[str, Any]] = []


def say(text: str) -> None:
    """One line of what goes on, with the time."""
    print(f"{datetime.now().strftime('%H:%M:%S')} {text}", flush=True)


def note(figure: str, value: float, goal: float, unit: str, peer: str = "", **more: Any) -> None:
    """Keep a figure for the end."""
    line = {"figure": figure, "value": float(f"{value:.4g}"), "goal": goal, "unit": unit}
    FIGURES.append({**line, **({"peer": peer} if peer else {}), **more, "load": round(os.getloadavg()[0], 1)})
    say(f"  {figure}: {value:.4g} {unit} (goal {goal}{', ' + peer if peer else ''})")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def make_texts(count: int) -> list[str]:
    """Texts of people who write to a shop; each begins with its number."""
    chance = random.Random(count)
    return [f"item-{at} " + " ".join(chance.choices(WORDS, k=chance.randint(8, 24))) for at in range(count)]


@contextmanager
def serving(workspace: Path) -> Iterator[tuple[LabellingServer, dict[str, str]]]:
    """A studio over a workspace, and the cookies of one who has opened it."""
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        cookies = {"luthier_studio": open_session(ledger), PERSON: PEOPLE[0]}
    server = LabellingServer(workspace)
    try:
        server.wait()
        yield server, cookies
    finally:
        server.stop()


# ---- the first page


def measure_first_page(options: argparse.Namespace, browser: Any, folder: Path) -> None:
    """The list of projects, with a fresh profile each time."""
    say("first page: a fresh profile each time")
    project = folder / "tickets"
    project.mkdir(parents=True)
    (project / "rows.csv").write_text("text,label\na,b\n")
    (project / "recipe.yaml").write_text(_recipe("tickets"))
    with serving(folder) as (server, cookies):
        took = [time_first_page(browser, server.url, cookies, "/") for _ in range(5 if options.quick else 20)]
    say("  " + ", ".join(f"{seconds * 1000:.0f} ms" for _, seconds in took))
    note("first_page_kb", max(size for size, _ in took) / 1000, 100, "kB")
    note("first_page_interactive_s", statistics.median(seconds for _, seconds in took[1:]), 0.3, "s",
         first=round(took[0][1], 3), p95=round(quantile([seconds for _, seconds in took], 0.95), 3))  # fmt: skip


# ---- tables


def _recipe(name: str) -> str:
    return (
        f"luthier: 1\nname: {name}\nsteps:\n  data:\n    kind: prepare\n"
        "    source: {kind: csv, path: rows.csv, prompt: text, answer: label}\n"
        "    ops: []\n    split: {test: 0.1}\n    task: label\n"
    )


def prepare_table(folder: Path, name: str, count: int) -> Path:
    """A project with so many rows, prepared; kept from the last time where it is there."""
    project = folder / name
    if not (project / "rows.csv").exists():
        project.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{text},{LABELS[at % len(LABELS)]}\n" for at, text in enumerate(make_texts(count)))
        (project / "rows.csv").write_text("text,label\n" + rows)
        (project / "recipe.yaml").write_text(_recipe(name))
    say(f"preparing {count:,} rows (nothing to do where they are prepared)")
    command = [sys.executable, "-m", "luthier", "run", str(project / "recipe.yaml")]
    subprocess.run(command, check=True, capture_output=True)
    return project


def measure_tables(options: argparse.Namespace, browser: Any, folder: Path) -> None:
    """Tables of 100,000 and 1,000,000 rows: opened, filtered, searched, sorted."""
    rounds = 5 if options.quick else 15
    folder.mkdir(parents=True)
    place = options.tables or folder
    for name, count in (("rows100k", 100_000), ("rows1m", 1_000_000)):
        prepare_table(place, name, count)
    with serving(place) as (server, cookies):
        for name, goal in (("rows100k", 0.5), ("rows1m", 1.0)):
            say(f"table {name}: opened {rounds} times in fresh profiles, then filtered, searched and sorted")
            opened = [_open_table(browser, server.url, cookies, name) for _ in range(rounds)]
            say("  opened: " + ", ".join(f"{one:.2f}" for one in opened) + " s")
            note(f"{name}_shown_s", statistics.median(opened), goal, "s", first=round(opened[0], 3),
                 p95=round(quantile(opened, 0.95), 3))  # fmt: skip
            for what, took in _use_table(browser, server.url, cookies, name, rounds).items():
                note(f"{name}_{what}_s", statistics.median(took), goal, "s", p95=round(quantile(took, 0.95), 3))
            if name == "rows100k":
                ours = opened
        if options.gradio is None:
            say("gradio is left out: name its Python by --gradio")
            return
        peer_rounds = 2 if options.quick else 4
        say(f"the same 100,000 rows in gradio's dataframe, {peer_rounds} rounds, each beside one of ours")
        with GradioTable(options.gradio, place / "rows100k/rows.csv", folder) as gradio:
            theirs, again = [], []
            for _ in range(peer_rounds):
                theirs.append(time_shown(new_page(browser), gradio.url, gradio.cell))
                again.append(_open_table(browser, server.url, cookies, "rows100k"))
                say(f"  gradio {theirs[-1]:.2f} s, luthier {again[-1]:.2f} s")
            note("table_shown_ratio", statistics.median(theirs) / statistics.median(ours + again), 20, "x",
                 gradio.version, theirs=round(statistics.median(theirs), 3))  # fmt: skip
            _compare_use(browser, gradio, server.url, cookies, peer_rounds)


def _open_table(browser: Any, url: str, cookies: dict[str, str], name: str) -> float:
    page = new_page(browser, url, cookies)
    took = time_shown(page, f"{url}/projects/{name}/data", "#rows tbody tr")
    page.context.close()
    return took


def _use_table(browser: Any, url: str, cookies: dict[str, str], name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds from a choice to the rows, by what was chosen."""
    page = new_page(browser, url, cookies)
    page.goto(f"{url}/projects/{name}/data")
    took: dict[str, list[float]] = {"filtered": [], "searched": []}
    for at in range(rounds):
        label, word = LABELS[at % len(LABELS)], f"item-{at}7"
        choose = partial(page.select_option, "select[name=label]", label)
        took["filtered"].append(time_change(page, "#rows", "change", choose))
        page.select_option("select[name=label]", "")
        page.wait_for_load_state("networkidle")
        page.locator("input[name=search]").fill(word)
        press = partial(page.locator("input[name=search]").press, "Enter")
        took["searched"].append(time_change(page, "#rows", "keydown", press))
        page.goto(f"{url}/projects/{name}/data")
    orders = page.locator("select[name=sort]")
    if orders.count():
        took["sorted"] = []
        for at in range(rounds):
            order = ("length", "-length", "label", "-label")[at % 4]
            choose = partial(orders.select_option, order)
            took["sorted"].append(time_change(page, "#rows", "change", choose))
            page.wait_for_load_state("networkidle")
    else:
        say("  this tree's tables have no order to choose")
    page.context.close()
    return took


def _compare_use(browser: Any, gradio: GradioTable, url: str, cookies: dict[str, str], rounds: int) -> None:
    theirs = gradio.search(new_page(browser), [f"item-{at}7" for at in range(rounds)])
    ours = _use_table(browser, url, cookies, "rows100k", rounds)["searched"]
    note("table_searched_ratio", statistics.median(theirs) / statistics.median(ours), 20, "x", gradio.version,
         theirs=round(statistics.median(theirs), 3))  # fmt: skip


# ---- import and labelling


def import_texts(ledger: Ledger, texts: Sequence[str]) -> tuple[str, float]:
    """A labelling project of so many texts, and seconds that they took to come in."""
    question = {"kind": "choice", "labels": list(LABELS)}
    settings = ProjectSettings.model_validate({"questions": {"topic": question}})
    project = create_project(ledger, f"Topics {len(texts)}", settings, by="owner")
    began = time.perf_counter()
    items = (NewItem(f"row-{at}", QuestionItem(({"role": "user", "content": text},))) for at, text in enumerate(texts))
    assert add_items(ledger, project.id, items) == len(texts)
    return project.id, time.perf_counter() - began


def list_peers(options: argparse.Namespace, folder: Path) -> Iterator[WebPeer]:
    """The peers whose Python was named, each ready to be started."""
    peers: list[tuple[Callable[[Path, Path], WebPeer], Path | None, str]] = [
        (LabelStudio, options.label_studio, "--label-studio"), (Doccano, options.doccano, "--doccano"),
    ]  # fmt: skip
    for make, python, option in peers:
        if python is None:
            say(f"{option[2:]} is left out: name its Python by {option}")
        else:
            yield make(python, folder)


def measure_import(options: argparse.Namespace, browser: Any, folder: Path) -> None:
    """Import of 200,000 texts, and of fewer beside peers: they take minutes for as many."""
    texts = make_texts(200_000)
    folder.mkdir(parents=True)
    with Ledger(folder / ".luthier/ledger.db") as ledger:
        say(f"import of {len(texts):,} texts into a labelling project")
        seconds = import_texts(ledger, texts)[1]
        note("import_items_per_s", len(texts) / seconds, 20_000, "items/s", seconds=round(seconds, 2))
        some = texts[: options.peer_items]
        for peer in list_peers(options, folder):
            with peer:
                say(f"{peer.version}: import of {len(some):,} texts by its own API, between two of ours")
                own = time.process_time()
                ours = [import_texts(ledger, some)[1]]
                own, used = time.process_time() - own, peer.cpu_seconds()
                theirs = peer.import_texts(some, LABELS)
                used = peer.cpu_seconds() - used
                ours.append(import_texts(ledger, some)[1])
            note(f"import_{peer.name}_ratio", theirs / statistics.fmean(ours), 10, "x", peer.version,
                 theirs=round(theirs, 2), ours=[round(one, 3) for one in ours], items=len(some))  # fmt: skip
            note(f"import_{peer.name}_cpu_ratio", used / own, 10, "x", peer.version, theirs=round(used, 2),
                 ours=round(own, 3))  # fmt: skip


def measure_labelling(options: argparse.Namespace, browser: Any, folder: Path) -> None:
    """Six people label a project of 200,000 texts; then the same six with each peer, on fewer texts."""
    rounds = 15 if options.quick else 60
    texts = make_texts(200_000)
    folder.mkdir(parents=True)
    with Ledger(folder / ".luthier/ledger.db") as ledger:
        project = import_texts(ledger, texts)[0]
        sessions = [open_session(ledger) for _ in PEOPLE]
    with serving(folder) as (server, _):
        pages = []
        for person, session in zip(PEOPLE, sessions, strict=True):
            page = new_page(browser, server.url, {"luthier_studio": session, PERSON: person})
            probe_keys(page, "#item", "1")
            page.goto(f"{server.url}/label/{project}")
            page.get_by_text("item-").first.wait_for()
            pages.append(page)
        say(f"six people label {len(texts):,} items, {rounds} each, one about every second")
        took = label_in_turn(pages, lambda page: page.keyboard.press("1"), rounds, 1.0)
        say(f"  median {statistics.median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms")
        note("key_to_next_item_p95_s", quantile(took, 0.95), 0.05, "s", median=round(statistics.median(took), 4),
             presses=len(took))  # fmt: skip
        for peer in list_peers(options, folder):
            with peer:
                say(f"{peer.version}: the same with {options.peer_items:,} items")
                peer.import_texts(texts[: options.peer_items], LABELS)
                measure_peer_keys(browser, peer, pages, rounds // 3)
        for page in pages:
            page.context.close()


def measure_peer_keys(browser: Any, peer: WebPeer, ours: Sequence[Any], rounds: int) -> None:
    """Six people label with the peer, then again with us, in short rounds."""
    pages = [peer.open_page(new_page(browser), at) for at in range(len(PEOPLE))]
    theirs: list[float] = []
    again: list[float] = []
    for turn in range(3):
        for page in pages + list(ours):
            page.evaluate("window.taken.length = 0")
        theirs += label_in_turn(pages, peer.press, max(3, rounds // 3), 1.0, turn)
        again += label_in_turn(ours, lambda page: page.keyboard.press("1"), max(3, rounds // 3), 1.0, turn)
        say(f"  round {turn + 1}: {peer.name} median {statistics.median(theirs) * 1000:.0f} ms, "
            f"luthier {statistics.median(again) * 1000:.0f} ms")  # fmt: skip
    for page in pages:
        page.context.close()
    note(f"key_{peer.name}_ratio", quantile(theirs, 0.95) / quantile(again, 0.95), 5, "x", peer.version,
         theirs_p95=round(quantile(theirs, 0.95), 3), ours_p95=round(quantile(again, 0.95), 4),
         median_ratio=round(statistics.median(theirs) / statistics.median(again), 2))  # fmt: skip


# ---- watchers of a run


def measure_watchers(options: argparse.Namespace, browser: Any, folder: Path) -> None:
    """Fifty watch a run that says something fifty times a second: the server's time and memory."""
    from studio_watchers import Watchers, live_run

    seconds = 40 if options.quick else options.watch_seconds
    project = folder / "tickets"
    project.mkdir(parents=True)
    (project / "rows.csv").write_text("text,label\na,b\n")
    (project / "recipe.yaml").write_text(_recipe("tickets"))
    with ExitStack() as stack:
        run = stack.enter_context(live_run(folder, project / "recipe.yaml", events_per_s=50))
        server, cookies = stack.enter_context(serving(folder))
        watchers = stack.enter_context(Watchers(server.url, run, cookies, 50))
        say(f"50 watchers of a run of 50 events a second, for {seconds} s after a minute to settle (not an hour)")
        time.sleep(15 if options.quick else 60)
        use = watchers.measure(server.process.pid, seconds)
    say(f"  each heard {use.heard:.2f} pieces a second; memory {use.first_mb:.1f} MB, then {use.last_mb:.1f} MB")
    note("watchers_core_share", use.core_share, 0.4, "cores", heard_per_s=round(use.heard, 2))
    note("watchers_memory_slope_mb_per_min", use.slope, 0, "MB/min", within=round(use.within, 3), seconds=seconds)


PARTS = {
    "page": measure_first_page,
    "tables": measure_tables,
    "import": measure_import,
    "labelling": measure_labelling,
    "watchers": measure_watchers,
}


def main() -> None:
    """Measure the parts that are asked for, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and shorter ones")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--tables", type=Path, help="where prepared tables are kept for the next time")
    parser.add_argument("--peer-items", type=int, default=20_000, help="how many texts a peer imports")
    parser.add_argument("--watch-seconds", type=int, default=240)
    for peer in ("--gradio", "--label-studio", "--doccano"):
        parser.add_argument(peer, type=Path, metavar="PYTHON", help="the Python of its environment")
    options = parser.parse_args()
    os.environ.pop("LUTHIER_STORE", None)
    os.environ.pop("LUTHIER_LEDGER", None)
    device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    try:
        with tempfile.TemporaryDirectory() as name, chromium() as browser:
            device += f", Chromium {browser.version}"
            for part in options.only:
                PARTS[part](options, browser, Path(name) / part)
    finally:  # also of what was measured before something failed
        for line in FIGURES:
            print(json.dumps({**line, "device": device}))


if __name__ == "__main__":
    main()
