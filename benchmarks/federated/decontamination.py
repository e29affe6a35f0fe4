"""Rows compared across sites without being shown: what it costs, and which rows are left out."""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path

from benchmarks.federated.figures import DATA, Extent, print_figure


def measure(extent: Extent) -> None:
    """Rows compared across sites."""
    measure_decontamination(1_000 if extent.quick else 10_000)
    if (banking := DATA / "banking77").is_dir():
        count_left_out_in_clear(banking)


def measure_decontamination(rows: int) -> None:
    """Two sites with so many rows each, a tenth of them held out; a hundredth of what one trains on is a near copy of
    what the other holds out. CPU seconds of one site, and bytes between the two."""
    from compared_sites import build_group, change_words, draw_texts

    held = rows // 10
    texts = draw_texts(2 * rows, 1)
    south = texts[rows:]
    copies = [change_words(text, 1, at) for at, text in enumerate(south[: rows // 100])]
    parts = {
        "north": (texts[: rows - held - len(copies)] + copies, texts[rows - held : rows]),
        "south": (south[held:], south[:held]),
    }
    with tempfile.TemporaryDirectory() as root:
        group = build_group(Path(root), parts)
        started = time.process_time()
        asked = {name: group.open(name).ask(1) for name in parts}
        asking = time.process_time()
        answered = {name: group.open(name).evaluate(2, 1, group.deal(asked, name)) for name in parts}
        answering = time.process_time()
        for name in parts:
            group.open(name).leave_out(2, group.deal(answered, name), None)
        ended = time.process_time()
        left_out = len(group.read_left_out("north")), len(group.read_left_out("south"))
    about = f"of {rows:,} rows at each of two sites, {held:,} of them held out"
    for figure, seconds in (
        ("ask", asking - started), ("answer", answering - asking), ("leave_out", ended - answering)
    ):  # fmt: skip
        print_figure(f"decontaminate_{figure}_seconds", round(seconds / 2, 1), "no goal", f"CPU-s of one site, {about}")
    for figure, sent in (("asked", asked), ("answered", answered)):
        size = sum(len(envelope) for by in sent.values() for envelope in by.values()) / 2 / 1e6
        print_figure(f"decontaminate_{figure}_bytes", round(size, 1), "no goal", "MB from one site to the other")
    print_figure("decontaminate_found", left_out[0] / len(copies), "1", f"of {len(copies)} copies with one other word")
    print_figure("decontaminate_strangers", left_out[1] + max(0, left_out[0] - len(copies)), "0", "other rows left out")


def count_left_out_in_clear(folder: Path) -> None:
    """What sites would leave out of real rows beside verified near copies: `train.csv` against `test.csv`."""
    import numpy

    from luthier.data.dedup.near import NearDuplicateIndex
    from luthier.data.ops.near_dedup import NearDedup
    from luthier.federated.decontamination.bands import _build_row, _compute_bands, find_repeated_rows
    from luthier.federated.decontamination.settings import DecontaminationSettings
    from tuning import chat

    parts = []
    for name in ("train", "test"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            texts = [line["text"] for line in csv.DictReader(file)]
        parts.append([_build_row(chat(text, "billing", at)) for at, text in enumerate(texts)])
    train, test = parts
    bands, others = (_compute_bands(NearDedup(), rows) for rows in parts)
    elements = numpy.unique(bands)
    places = numpy.searchsorted(elements, others).clip(max=len(elements) - 1)
    at, which = numpy.nonzero(elements[places] == others)
    matches = numpy.stack([places[at, which], at], axis=1)
    matches = matches[numpy.lexsort((matches[:, 1], matches[:, 0]))]
    found = find_repeated_rows(bands, elements, matches, DecontaminationSettings().shared_bands)
    verified = {
        threshold: numpy.array(
            [row is not None for row in NearDuplicateIndex(threshold, iter(test), test.__getitem__).nearest_of(train)]
        )
        for threshold in (0.8, 0.6)
    }
    about = f"of {len(train):,} rows of {folder.name} against {len(test):,} held out"
    true = verified[0.8]
    print_figure("decontaminate_verified", int(true.sum()), "no goal", f"near copies at 0.8 {about}")
    print_figure("decontaminate_recall", float((found & true).sum() / true.sum()), ">= 0.99", "of them left out")
    print_figure(
        "decontaminate_beside", int((found & ~true).sum()), "few", "rows left out whose similarity is below 0.8"
    )
    print_figure("decontaminate_far", int((found & ~verified[0.6]).sum()), "0", "of these below 0.6")
