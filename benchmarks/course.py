"""What small tables need: accuracy (or ROUGE-L) and seconds of trainings with so many passes in steps of so many rows.

    python benchmarks/course.py [--sets NAME …] [--courses new 4x32 4x8 …] [--seeds 7 …] [--folder DIR]

A set is a table of a few hundred rows for `luthier new` (`../shared/data`); its recipe is kept but for how many rows
are held out, and for the course: `new` is what it proposes, `4x8` four passes in steps of eight rows, and `4x8@0.002`
the same at that learning rate. Every training is SmolLM2-135M with LoRA and defaults otherwise, one after the other;
accuracy stands beside TF-IDF's on the same rows, and of sets whose answers are texts ROUGE-L beside that of the nearest
question's answer, with the perplexity of the answers held out. What src/luthier/data/intake/course.py proposes was
chosen by these figures.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luthier.data.intake.course import course
from luthier.data.intake.propose import propose, render_recipe
from luthier.flow.recipe import Recipe

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SEED = 7
MORE = 1.15
"""So many more rows stand in the table than are taken: some are near copies, which `new` proposes to leave out."""


class Pair(NamedTuple):
    """A text with its class, or its answer."""

    text: str
    label: str


class Table(NamedTuple):
    """A small table: where its rows come from, of how many classes (0: answers are texts), and how many are trained on
    and held out."""

    rows: Callable[[], Iterable[Pair]]
    classes: int
    train: int
    test: int


def main() -> None:
    """Measure what was asked for, and print one JSON line a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--courses", nargs="+", default=["new", "4x32", "4x8"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    parser.add_argument("--folder", type=Path, help="where tables and stores are kept, so that nothing is made twice")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    with tempfile.TemporaryDirectory() as spare:
        for name in options.sets:
            folder = (options.folder or Path(spare)) / name
            for seed in options.seeds:
                for named in options.courses:
                    print(json.dumps({"set": name, **_measure(folder, TABLES[name], named, seed)}), flush=True)


def _measure(folder: Path, table: Table, named: str, seed: int) -> dict[str, Any]:
    """One training and its measure."""
    settings = _recipe(folder, table)
    settings["seed"] = seed  # of the rows held out, too
    tune = settings["steps"]["tune"]
    tune |= _asked(named) if named != "new" else course(table.train, table.classes).settings
    path = folder / f"{named}-{seed}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    result = Recipe.load(path).run(only=["report"])
    scores = json.loads(result["report"].artifact.path("metrics.json").read_text(encoding="utf-8"))["models"]
    timing = json.loads((result["tune"].artifact.folder / "timing.json").read_text(encoding="utf-8"))["measures"]
    log = result["tune"].artifact.path("log.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "train": table.train,
        "test": table.test,
        "course": named,
        "epochs": tune.get("epochs", 1),
        "rows_per_step": tune.get("rows_per_step", 32),
        "steps": max(json.loads(line).get("step", 0) for line in log),
        "seed": seed,
        **{
            name if model == "tuned" else model: round(scores[model][name]["value"], 3)
            for name in _measures(table)
            for model in ("tuned", _beside(table))
            if name in scores[model]
        },
        "train_s": round(timing["train_s"]),
        "train_cpu_s": round(timing["train_s"] * timing["flops_per_s"] / timing["flops_per_cpu_s"]),
    }


def _measures(table: Table) -> list[str]:
    return ["accuracy"] if table.classes else ["rougeL", "perplexity"]


def _beside(table: Table) -> str:
    """The baseline."""
    return "tfidf" if table.classes else "nearest"


def _asked(named: str) -> dict[str, float]:
    """The settings that `4x8` or `4x8@0.002` stands for."""
    often, _, rate = named.partition("@")
    epochs, rows_per_step = map(int, often.split("x"))
    settings: dict[str, float] = {"epochs": epochs, "rows_per_step": rows_per_step}
    return {**settings, "learning_rate": float(rate)} if rate else settings


def _recipe(folder: Path, table: Table) -> dict[str, Any]:
    """What `luthier new` writes for the table, with so many rows held out and the tuned model measured alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "table.csv"
    if not path.exists():
        _write(path, table)
    written: dict[str, Any] = yaml.safe_load(render_recipe(propose(path, shown=path.name), "small"))
    steps = written["steps"]
    steps["data"]["split"] = {"train": table.train, "test": table.test}
    steps["report"] |= {"metrics": _measures(table), "baselines": [_beside(table)], "compare_base": False, "tasks": []}
    steps["report"]["dtype"] = "bfloat16"
    steps["tune"] = {name: steps["tune"][name] for name in ("kind", "data", "technique", "objective")}
    return {**written, "steps": {name: steps[name] for name in ("data", "tune", "report")}}


def _write(path: Path, table: Table) -> None:
    """The table, drawn by a seed of its own."""
    rows = sorted(set(table.rows()))
    random.Random(0).shuffle(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        names = Pair._fields if table.classes else ("question", "answer")
        csv.writer(file).writerows([names, *rows[: round(MORE * (table.train + table.test))]])


def _banking(*intents: str) -> Iterator[Pair]:
    for name in ("train.csv", "test.csv"):
        with (DATA / "banking77" / name).open(encoding="utf-8", newline="") as file:
            yield from (
                Pair(row["text"], row["category"]) for row in csv.DictReader(file) if row["category"] in intents
            )


def _bitext() -> Iterator[Pair]:
    for path in sorted((DATA / "bitext_intents").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (Pair(row["utterance"], row["intent"]) for row in csv.DictReader(file))


def _snips() -> Iterator[Pair]:
    for path in sorted((DATA / "snips").glob("*.json")):
        intent = path.stem.partition("_")[2]
        for said in json.loads(path.read_text(encoding="utf-8"))[intent] if intent != "SearchCreativeWork" else ():
            yield Pair("".join(part["text"] for part in said["data"]).strip(), intent)


def _tweets() -> Iterator[Pair]:
    names = ("negative", "neutral", "positive")
    folder = DATA / "tweeteval_sentiment_irony" / "sentiment"
    texts = (folder / "val_text.txt").read_text(encoding="utf-8").splitlines()
    labels = (folder / "val_labels.txt").read_text(encoding="utf-8").split()
    yield from (Pair(text, names[int(label)]) for text, label in zip(texts, labels, strict=True))


def _replies() -> Iterator[Pair]:
    path = DATA / "bitext_customer_support" / "Bitext_Sample_Customer_Support_Training_Dataset.csv"
    with path.open(encoding="utf-8", newline="") as file:
        yield from (Pair(row["instruction"], row["response"]) for row in csv.DictReader(file))


def _summaries() -> Iterator[Pair]:
    with (DATA / "dialogsum" / "dialogsum.train.jsonl").open(encoding="utf-8") as file:
        yield from (Pair(row["dialogue"], row["summary"]) for row in map(json.loads, file))


def _sums() -> Iterator[Pair]:
    with (DATA / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        yield from (Pair(row["question"], row["answer"]) for row in map(json.loads, file))


CARDS = ("card_arrival", "card_delivery_estimate", "lost_or_stolen_card", "card_not_working", "card_linking")
TOP_UPS = ("top_up_failed", "pending_top_up", "top_up_reverted", "verify_top_up", "topping_up_by_card")
TRANSFERS = (
    "pending_transfer",
    "failed_transfer",
    "declined_transfer",
    "cancel_transfer",
    "transfer_not_received_by_recipient",
    "transfer_timing",
    "transfer_fee_charged",
    "transfer_into_account",
    "balance_not_updated_after_bank_transfer",
    "receiving_money",
    "beneficiary_not_allowed",
    "top_up_by_bank_transfer_charge",
)
TABLES: Mapping[str, Table] = {
    "cards, 5": Table(lambda: _banking(*CARDS), 5, 200, 200),
    "top-ups, 5": Table(lambda: _banking(*TOP_UPS), 5, 320, 200),
    "transfers, 12": Table(lambda: _banking(*TRANSFERS), 12, 400, 240),
    "more transfers, 12": Table(lambda: _banking(*TRANSFERS), 12, 1000, 240),
    "snips, 6": Table(_snips, 6, 200, 200),
    "tweets, 3": Table(_tweets, 3, 800, 300),
    "bitext, 27": Table(_bitext, 27, 540, 200),
    "replies": Table(_replies, 0, 400, 60),
    "summaries": Table(_summaries, 0, 400, 80),
    "sums": Table(_sums, 0, 400, 60),
}

if __name__ == "__main__":
    main()
