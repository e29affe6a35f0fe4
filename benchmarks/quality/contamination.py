"""Copies of benchmark questions among strangers: how many are found when a tenth of the words is changed.

Real questions of four sets beside the checkout are the benchmark: GSM8K (test), BANKING77 (test), Bitext and
CodeAlpaca. Each is copied with the largest whole number of words up to a tenth replaced by words of the same set, left
out, or put in, at random places, and once more inside a longer text. Strangers are rows of other sets, and the training
half of the same set, of which those that are found are shown: a question may truly stand in both halves.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.chat.messages import Message
from luthier.data.dedup.contamination import ContaminationIndex
from luthier.data.ops.decontaminate import Decontaminate
from luthier.data.row import Row

DATA = Path(__file__).parents[3] / "shared" / "data"
SHARE = 0.1


def _questions() -> dict[str, tuple[list[str], list[str]]]:
    """By set: questions of the benchmark, and questions that are none of it."""
    half = {}
    for name, tested, trained in (
        ("gsm8k", _lines("gsm8k/test.jsonl", "question"), _lines("gsm8k/train.jsonl", "question")),
        ("banking77", _cells("banking77/test.csv", "text"), _cells("banking77/train.csv", "text")),
    ):
        half[name] = (tested, trained)
    bitext = _cells("bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv", "response")
    half["bitext"] = (bitext[::2], [])
    alpaca = json.loads((DATA / "codealpaca_2k" / "code_alpaca_2k.json").read_text(encoding="utf-8"))
    half["codealpaca"] = ([f"{row['instruction']} {row['input']}".strip() for row in alpaca], [])
    return half


def _lines(name: str, column: str) -> list[str]:
    return [json.loads(line)[column] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def _cells(name: str, column: str) -> list[str]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def changed(text: str, words: Sequence[str], chance: random.Random) -> str:
    """The text with a tenth of its words, rounded down, replaced, left out or put in."""
    found = text.split()
    for place in sorted(chance.sample(range(len(found)), int(SHARE * len(found))), reverse=True):
        how = chance.choice(("replaced", "left out", "put in"))
        found[place : place + (how != "put in")] = [] if how == "left out" else [chance.choice(words)]
    return " ".join(found)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Per set: copies found, copies found inside longer texts, strangers found."""
    if not DATA.is_dir():
        print(f"the real data is not beside the repository: {DATA}")
        return
    sets = {name: (tested[: 300 if quick else None], trained) for name, (tested, trained) in _questions().items()}
    found, copies, wrong, strangers = 0, 0, 0, 0
    inside: list[float] = []
    operator = Decontaminate()
    for name, (tested, trained) in sets.items():
        chance = random.Random(name)
        words = sorted({word for text in tested for word in text.split()})
        rows = _rows(tested)
        started = time.process_time()
        named = ((f"{name}:{row.n + 1}", row) for row in rows)
        unseen = ContaminationIndex(named, rows.__getitem__, similarity=operator.similarity, overlap=operator.overlap)
        built = time.process_time() - started
        hits = unseen.hits(_rows([changed(text, words, chance) for text in tested]))
        others = [text for other, (texts, _) in sets.items() if other != name for text in texts]
        asked = time.process_time()
        strange = unseen.hits(_rows(others))
        per_row = (time.process_time() - asked) / len(others)
        longer = [f"{chance.choice(others)} {changed(text, words, chance)} {chance.choice(others)}" for text in tested]
        inside += [hit is not None for hit in unseen.hits(_rows(longer))]
        missed = [text for text, hit in zip(tested, hits, strict=True) if hit is None]
        found, copies = found + len(tested) - len(missed), copies + len(tested)
        wrong, strangers = wrong + sum(hit is not None for hit in strange), strangers + len(others)
        print(
            f"{name:11} {len(tested):5} copies, {len(missed)} missed; {sum(map(bool, strange))} of {len(others)} rows "
            f"of other sets found; built in {built:.2f} CPU-s, {per_row * 1e6:.0f} us/row",
            flush=True,
        )
        for text in missed[:3]:
            print(f"    missed: {text[:100]}")
        _same_set(name, trained[: 1000 if quick else None], unseen, tested)
    yield _figure("contamination_recall", found / copies, 0.99)
    yield _figure("contamination_strangers_found", wrong / strangers, 0)
    yield _figure("contamination_recall_inside_longer_texts", sum(inside) / len(inside), None)


def _same_set(name: str, trained: list[str], unseen: ContaminationIndex, tested: list[str]) -> None:
    """What is found between the published halves of one set."""
    hits = unseen.hits(_rows(trained))
    shown = [(text, hit) for text, hit in zip(trained, hits, strict=True) if hit]
    if trained:
        print(f"    {len(shown)} of {len(trained)} rows of its own training half found, the least similar:")
    for text, hit in sorted(shown, key=lambda one: one[1].similarity)[:3]:
        other = tested[int(hit.name.rpartition(":")[2]) - 1]
        print(f"    {hit.similarity:.2f} {hit.how}: {text[:90]!r} / {other[:90]!r}")


def _rows(texts: Sequence[str]) -> list[Row]:
    return [
        Row(
            n,
            str(n),
            "",
            "",
            n + 1,
            "chat",
            (Message(role="user", content=text), Message(role="assistant", content="")),
        )
        for n, text in enumerate(texts)
    ]


def _figure(name: str, value: float, goal: float | None) -> dict[str, Any]:
    return {"figure": name, "value": round(value, 5), "goal": goal, "unit": "share"}
