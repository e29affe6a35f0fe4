"""Rows compared across sites without being shown: what it costs, and which rows are left out."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.federated.figures import DATA, Extent, print_figure


def measure(extent: Extent) -> None:
    """Rows compared across sites."""
    measure_planted_copies(1_000 if extent.quick else 10_000)
    few = 1_000 if extent.quick else None
    if (banking := DATA / "banking77").is_dir():
        parts = (read_column(banking / f"{part}.csv", "text")[:few] for part in ("train", "test"))
        measure_real_copies("banking77", *parts)
    if (intents := DATA / "bitext_intents").is_dir():
        files = (intents / f"Bitext_Sample_Customer_Service_{part}_Dataset.csv" for part in ("Training", "Testing"))
        measure_real_copies("bitext_intents", *(read_column(file, "utterance")[:few] for file in files))


def measure_planted_copies(rows: int) -> None:
    """Two sites with so many rows each, a tenth of them held out; a hundredth of what one trains on is a near copy of
    what the other holds out."""
    from compared_sites import change_words, draw_texts

    held = rows // 10
    texts = draw_texts(2 * rows, 1)
    south = texts[rows:]
    copies = [change_words(text, 1, at) for at, text in enumerate(south[: rows // 100])]
    parts = {
        "north": (texts[: rows - held - len(copies)] + copies, texts[rows - held : rows]),
        "south": (south[held:], south[:held]),
    }
    left_out = measure_decontamination(parts, f"of {rows:,} rows at each of two sites, {held:,} of them held out")
    found = {name: len(texts) for name, texts in left_out.items()}
    print_figure("decontaminate_found", found["north"] / len(copies), "1", f"of {len(copies)} copies with another word")
    strangers = found["south"] + max(0, found["north"] - len(copies))
    print_figure("decontaminate_strangers", strangers, "0", "other rows left out")


def measure_real_copies(name: str, train: Sequence[str], test: Sequence[str]) -> None:
    """What a site leaves out of real rows that another holds out, beside what `near_dedup` verifies over all rows."""
    from luthier.data.dedup.near import NearDuplicateIndex
    from luthier.federated.decontamination.bands import _build_row
    from tuning import chat

    about = f"of {len(train):,} rows of {name} against {len(test):,} held out"
    parts = {"north": (train, test[:1]), "south": (test[:8], test)}
    left_out = set(measure_decontamination(parts, about)["north"])
    rows, held = ([_build_row(chat(text, "billing", at)) for at, text in enumerate(texts)] for texts in (train, test))
    indices = {at: NearDuplicateIndex(at, iter(held), held.__getitem__) for at in (0.8, 0.75, 0.7)}
    true, near, far = (
        {text for text, row in zip(train, index.nearest_of(rows), strict=True) if row is not None}
        for index in indices.values()
    )
    counts = {"verified": true, "left_out": left_out, "beside": left_out - true, "beside_below_75": left_out - near}
    for figure, texts in counts.items():
        number = sum(text in texts for text in train)
        print_figure(f"decontaminate_{figure}", number, "few" if "beside" in figure else "no goal", about)
    print_figure("decontaminate_below_70", sum(text in left_out - far for text in train), "0", about)
    print_figure("decontaminate_recall", len(left_out & true) / len(true), ">= 0.99", "of those verified at 0.8")
    print_figure("decontaminate_precision", len(left_out & true) / len(left_out), "1", "of those left out")


def measure_decontamination(
    parts: Mapping[str, tuple[Sequence[str], Sequence[str]]], about: str
) -> dict[str, list[str]]:
    """Two sites with training rows and held-out rows, north first; the texts that each leaves out. Prints CPU seconds
    of both sites together, and bytes between them."""
    from compared_sites import build_group
    from luthier.artifacts.dataset import read_examples

    with tempfile.TemporaryDirectory() as root:
        group = build_group(Path(root), parts)
        carried: Any = None
        stages: dict[str, Callable[[Any], Any]] = {
            "ask": lambda _: group.ask(),
            "answer": lambda asked: group.evaluate(asked, 2),
            "ask_more": group.ask_more,
            "answer_more": lambda asked: group.evaluate(asked, 4),
        }
        for figure, run in stages.items():
            started = time.process_time()
            carried = run(carried)
            seconds = time.process_time() - started
            print_figure(
                f"decontaminate_{figure}_seconds", round(seconds, 1), "no goal", f"CPU-s of both sites, {about}"
            )
            for name in parts:
                size = sum(len(envelope) for envelope in carried[name].values()) / 1e6
                print_figure(f"decontaminate_{figure}_bytes", round(size, 1), "no goal", f"MB from {name}")
        started = time.process_time()
        for name in parts:
            group.open(name).leave_out(5, group.deal(carried, name), None)
        seconds = time.process_time() - started
        print_figure("decontaminate_leave_out_seconds", round(seconds, 1), "no goal", "CPU-s of both sites")
        found = {}
        for name, work in group.works.items():
            ids = {line["id"] for line in group.read_left_out(name)}
            found[name] = [
                str(row.messages[-2].content) for row in read_examples(work.inputs["data"], "train") if row.id in ids
            ]
        return found


def read_column(path: Path, column: str) -> list[str]:
    """The texts of a CSV file's column."""
    with path.open(encoding="utf-8", newline="") as file:
        return [line[column] for line in csv.DictReader(file)]
