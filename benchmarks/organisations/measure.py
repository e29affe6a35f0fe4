"""How many organisations are found, and how rightly: by the rules alone, and with a model that `tune` made.

    python -m benchmarks.organisations.measure organisations.safetensors [--half-1]

Both stand beside Rampart. The rows: sentences of ours for choosing, others held out, fresh ones by somebody who had
seen neither. `--half-1` measures half 1 of pii_synth_small, too, from `../shared/data`: it has been looked at three
times, and a next model should be measured on new rows. A find counts when it shares half of what either covers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.organisations.names import HERE
from benchmarks.organisations.reader import Reader
from benchmarks.pii_rows import synth

from luthier.data.pii.proof import Labelled
from luthier.data.pii.proof import measure as rightness
from luthier.text.pii.found import PATTERN_KINDS, Found
from luthier.text.pii.scan import find
from luthier.text.recogniser import Recogniser

_AT_LEAST = 0.7
_MARKED = re.compile(r"\[\[(.+?)\]\]")


def sentences(file: str) -> list[Labelled]:
    """Lines whose organisations stand in double brackets."""
    rows = []
    for line in (HERE / file).read_text(encoding="utf-8").splitlines():
        text, spans, at = "", [], 0
        for one in _MARKED.finditer(line):
            text += line[at : one.start()]
            spans.append(Found(len(text), len(text) + len(one[1]), "organisation", one[1]))
            text, at = text + one[1], one.end()
        if line.strip():
            rows.append(Labelled(text + line[at:], tuple(spans)))
    return rows


def show(title: str, rows: Sequence[Labelled], reader: Reader) -> None:
    """Print a line for the rules and one for the rules and the model."""
    recogniser = Recogniser.parse("rampart")
    kinds = (*PATTERN_KINDS, *recogniser.finds)
    ruled = recogniser.recognise([row.text for row in rows])
    apart = Recogniser.parse({"kind": "rampart", "organisations": False}).recognise([row.text for row in rows])
    both = [reader.beside(row.text, named, _AT_LEAST) for row, named in zip(rows, apart, strict=True)]
    for how, named in (("rules", ruled), ("rules and model", both)):
        finds = [find(row.text, kinds, more) for row, more in zip(rows, named, strict=True)]
        right = rightness(rows, finds)["organisation"]
        shown = [f"{rate[0]:9.3f} [{rate[1]:.2f}, {rate[2]:.2f}]" if rate else f"{'none':>22}" for rate in
                 (right.recall, right.precision)]  # fmt: skip
        print(f"{title:16}{how:18}{right.wanted:8}{right.found:8}{shown[0]}{shown[1]}", flush=True)


def main(weights: Path, *, half_1: bool) -> None:
    """Print the table."""
    reader = Reader(weights)
    print(f"{'':34}{'wanted':>8}{'found':>8}{'recall':>9}{'':13}{'precision':>9}")
    for file in ("chosen_on.txt", "held_out.txt", "fresh.txt"):
        show(file, sentences(file), reader)
    if half_1:
        rows = synth(1)
        if not rows:
            sys.exit("half 1 is not measured: pii_synth_small is not in ../shared/data")
        show("synth, half 1", rows, reader)


if __name__ == "__main__":
    main(Path(sys.argv[1]), half_1="--half-1" in sys.argv[2:])
