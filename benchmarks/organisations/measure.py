"""How many organisations are found, and how rightly: by the rules alone, and by `names: minilm`.

    python -m benchmarks.organisations.measure [organisations.safetensors] [--chosen] [--half-1]

Both stand beside Rampart. Without weights it measures those that Luthier brings. The rows: sentences of ours for
choosing, others held out, two sets by people who had seen neither texts nor models; `--chosen` takes the first alone.
`--half-1` measures half 1 of pii_synth_small, too, from `../shared/data`. A find counts when it shares half of what
either covers. At last, what is taken in texts where hardly anybody names a company: how much of it is wrong, only eyes
can say.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.organisations.names import HERE
from benchmarks.organisations.texts import SHARED, marked
from benchmarks.pii_rows import synth

from luthier.data.pii.benchmark import LabeledPiiText
from luthier.data.pii.benchmark import measure_precision_recall as rightness
from luthier.pii.detect import find_pii
from luthier.pii.organization_reader import CHANGE, OrganizationRecognizer
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PATTERN_KINDS, PiiSpan

_TICKETS = HERE.parents[1] / "recipes" / "support" / "tickets.csv"
_EACH = 400


def sentences(file: str) -> list[LabeledPiiText]:
    """Lines whose organisations stand in double brackets."""
    return [
        LabeledPiiText(
            one.text, tuple(PiiSpan(start, end, "organisation", one.text[start:end]) for start, end, _ in one.spans)
        )
        for one in marked(file)
    ]


def finds(recogniser: Recognizer, texts: Sequence[str]) -> list[list[PiiSpan]]:
    """What is found in each text, names beside patterns."""
    kinds = (*PATTERN_KINDS, *recogniser.finds)
    return [find_pii(text, kinds, named) for text, named in zip(texts, recogniser.recognise(texts), strict=True)]


def show(title: str, rows: Sequence[LabeledPiiText], recogniser: Recognizer) -> None:
    """Print a line for each kind of names that stands in the rows."""
    measured = rightness(rows, finds(recogniser, [row.text for row in rows]))
    for kind in ("organisation", "person", "address"):
        right = measured.get(kind)
        if right and right.expected:
            rates = [f"{rate[0]:9.3f} [{rate[1]:.2f}, {rate[2]:.2f}]" if rate else f"{'none':>22}"
                     for rate in (right.recall, right.precision)]  # fmt: skip
            print(
                f"{title:16}{recogniser.kind:10}{kind:14}{right.expected:6}{right.found:6}{rates[0]}{rates[1]}",
                flush=True,
            )


def without_names() -> Iterator[tuple[str, list[str]]]:
    """So many questions, answers and tickets where hardly anybody names a company."""
    draw = random.Random(3)
    asked = _rows(SHARED / "banking77/test.csv")
    told = _rows(SHARED / "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv")
    tickets = [value for row in _rows(_TICKETS) for value in row.values() if value and len(value) > 30]
    for title, texts in (
        ("banking77, questions", [row["text"] for row in asked]),
        ("bitext, questions", [row.get("instruction") or row.get("utterance") or "" for row in told]),
        ("bitext, answers", [row.get("response") or "" for row in told]),
        ("tickets, fields", tickets),
    ):
        yield title, draw.sample(texts, min(len(texts), _EACH))


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def show_taken(recogniser: Recognizer) -> None:
    """Print each organisation that is found in such texts, with what stands around it."""
    for title, texts in without_names():
        taken = [
            f"{one.text!r} in {text[max(0, one.start - 25) : one.end + 15]!r}"
            for text, found in zip(texts, finds(recogniser, texts), strict=True)
            for one in found
            if one.kind == "organisation"
        ]
        print(f"{title}: {len(taken)} in {len(texts)} texts", *taken, sep="\n    ", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="?", default=CHANGE)
    parser.add_argument("--chosen", action="store_true")
    parser.add_argument("--half-1", action="store_true")
    asked = parser.parse_args()
    recogniser = Recognizer.parse("minilm")
    vars(recogniser)["_reader"] = OrganizationRecognizer(asked.weights)
    sets = {file: sentences(file) for file in ("chosen_on.txt", "held_out.txt", "fresh.txt", "second.txt")
            if (HERE / file).is_file()}  # fmt: skip
    if asked.chosen:
        sets = {"chosen_on.txt": sets["chosen_on.txt"]}
    if asked.half_1:
        sets["synth, half 1"] = synth(1)
    for title, rows in sets.items():
        for one in (Recognizer.parse("rampart"), recogniser):
            show(title, rows, one)
    show_taken(recogniser)


if __name__ == "__main__":
    main()
