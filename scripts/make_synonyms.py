"""Makes `src/luthier/core/wordnet/synsets.tsv.gz` from WordNet 3.0's own files (Debian's package `wordnet-base`).

    python scripts/make_synonyms.py /usr/share/wordnet

A line is a synset: its part of speech (n, v, a, r), then its single-word lemmas, each followed by its sense's number
(`#1` is the word's commonest sense) and, where WordNet's tagged texts hold that sense, how often (`*42`). Words of
several parts (`ice_cream`) are left out. After the synsets come the irregular forms: `n!`, the form, its base forms.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
KINDS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
TARGET = Path(__file__).parent.parent / "src" / "luthier" / "core" / "wordnet" / "synsets.tsv.gz"


def main(folder: Path) -> None:
    """Write the table, the same bytes every time."""
    lines = [line for name in PARTS for line in _synsets(folder, name, _counts(folder))]
    lines += [line for name in PARTS for line in _irregular(folder, name)]
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    sys.stdout.write(f"{TARGET}: {len(lines)} lines, {TARGET.stat().st_size} bytes\n")


def _counts(folder: Path) -> dict[tuple[str, str, int], int]:
    """How often a sense stands in the tagged texts, by word, part of speech and number."""
    found = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, number, count = line.split()
        word, _, sense = key.partition("%")
        found[word, KINDS[sense[0]], int(number)] = int(count)
    return found


def _senses(folder: Path, name: str) -> dict[tuple[str, str], int]:
    """The number of a word's sense, by word and the synset's place in the file."""
    found = {}
    for line in _entries(folder / f"index.{name}"):
        word, *fields = line.split()
        kinds = int(fields[2])
        for number, place in enumerate(fields[5 + kinds :], 1):
            found[word, place] = number
    return found


def _synsets(folder: Path, name: str, counts: dict[tuple[str, str, int], int]) -> Iterator[str]:
    senses = _senses(folder, name)
    for line in _entries(folder / f"data.{name}"):
        fields = line.partition("|")[0].split()
        words = [word.partition("(")[0] for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
        told = []
        for word in (word for word in words if "_" not in word):
            number = senses[word.lower(), fields[0]]
            count = counts.get((word.lower(), PARTS[name], number), 0)
            told.append(f"{word}#{number}" + (f"*{count}" if count else ""))
        if told:
            yield "\t".join([PARTS[name], *told])


def _irregular(folder: Path, name: str) -> Iterator[str]:
    for line in (folder / f"{name}.exc").read_text(encoding="utf-8").splitlines():
        form, *bases = line.split()
        if not any("_" in word for word in (form, *bases)):
            yield "\t".join([f"{PARTS[name]}!", form, *bases])


def _entries(path: Path) -> Iterator[str]:
    """The lines of one of WordNet's files without the licence at its head."""
    return (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  "))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
