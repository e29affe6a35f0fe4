"""Planted wrong labels: how many of them influence ranks worst, beside confident learning and chance; and the LDS.

A tiny Llama learns which class a text has by one word of six; one label in twenty is wrong. Run from the root of the
repository: `PYTHONPATH=src:tests:. python benchmarks/influence.py`. Prints the table of
`benchmarks/results/influence.txt`.

With `--order`, two of the three words stand in each text, the first one decides, and wrong labels name the second.
With `--texts FILE --labels FILE` (one a line, as in TweetEval), SmolLM2-135M-Instruct learns two of the classes by
LoRA in a recipe, and one label in twenty is turned into the other: `--classes 0=negative 2=positive`. Prints one line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.core.step import StepContext
from luthier.data.validate.confident_learning import find_label_errors
from luthier.models.text_classifier import predict_texts_out_of_fold
from luthier.tune.influence.method import EngineSettings, InfluenceMethod
from luthier.tune.influence.study import InfluenceStudy
from luthier.tune.influence.verify import verify_scores
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from tests.explain.planted import EVIDENCE, planted, planted_order
from tuning import make_env

CLASSES = sorted(set(EVIDENCE.values()))


def row(text: str, label: str, line: int) -> Example:
    """A text with its class."""
    messages = (Message(role="user", content=text), Message(role="assistant", content=label))
    origin = ExampleOrigin(source="csv", file="rows.csv", line=line)
    return Example(
        id=example_id(messages, label, {}, line), origin=origin, kind="label", messages=messages, label=label
    )


RECIPE = """\
luthier: 1
name: planted
seed: {seed}
model: smollm2-135m-instruct
steps:
  data:
    kind: prepare
    source: {{kind: csv, path: rows.csv, prompt: text, answer: label}}
    split: {{test: 120}}
  tune:
    kind: tune
    data: data
    technique: {{kind: lora, r: 8}}
    batch_size: 8
    epochs: 2
    learning_rate: 5.0e-4
    keep_states: 2
  taught: {{kind: influence, data: data, model: tune, query: {{limit: 120}}, methods: [adam, nearest], harmful: 0.1}}
"""


def measure_real(options: argparse.Namespace, seed: int) -> dict[str, object]:
    """Planted wrong labels of real texts in the worst tenth, by influence and by confident learning on these rows."""
    import polars

    from luthier import Recipe
    from luthier.artifacts.dataset import read_examples
    from luthier.artifacts.findings import read_flagged_rows
    from luthier.artifacts.influence import InfluenceSummary

    names = dict(one.split("=") for one in options.classes)
    pairs = zip(*(path.read_text("utf-8").splitlines() for path in (options.texts, options.labels)), strict=True)
    rows = [(" ".join(text.split()), names[label]) for text, label in pairs if label in names and text.strip()]
    draw = random.Random(seed)
    draw.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        kept = rows[: options.rows + 120]
        (Path(folder) / "recipe.yaml").write_text(RECIPE.format(seed=seed))
        with (Path(folder) / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *kept])
        plan = Recipe.load(Path(folder) / "recipe.yaml").run(only=["data"])
        train = read_examples(plan["data"].artifact, "train")
        lines = sorted(example.origin.line for example in train)
        wrong = set(draw.sample(lines, len(lines) // 20))  # of training rows; the split goes by the text
        other = dict(zip(names.values(), list(names.values())[::-1], strict=True))
        mixed = [(text, other[label] if at + 2 in wrong else label) for at, (text, label) in enumerate(kept)]
        with (Path(folder) / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *mixed])
        started = time.process_time()
        result = Recipe.load(Path(folder) / "recipe.yaml").run(only=["taught"])
        spent = time.process_time() - started
        artifact = result["taught"].artifact
        table = polars.read_parquet(artifact.path("influence.parquet"))
        mislabeled = numpy.array([line in wrong for line in table["line"].to_list()])
        worst = len(table) // 10
        by_id = {example.id: example for example in read_examples(result["data"].artifact, "train")}
        texts = [by_id[key].messages[0].content for key in table["id"].to_list()]
        codes = numpy.array([list(names.values()).index(label) for label in table["label"].to_list()])
        shares = predict_texts_out_of_fold(texts, codes, seed=seed).probabilities
        own = shares[numpy.arange(len(codes)), codes] - shares.max(1) - find_label_errors(codes, shares)
        tested = InfluenceSummary.read(artifact).significance
        named = {mark.id for mark in read_flagged_rows(artifact)}
        hurt = [
            bool(wrong_one) for key, wrong_one in zip(table["id"].to_list(), mislabeled, strict=True) if key in named
        ]

        def find(scores: Any) -> int:
            return int(mislabeled[numpy.argsort(scores, kind="stable")[:worst]].sum())

        return {
            "figure": "planted_wrong_labels_in_worst_tenth", "seed": seed, "rows": len(table), "wrong": len(wrong),
            "adam": find(table["score.adam"].to_numpy()), "nearest": find(table["score.nearest"].to_numpy()),
            "confident_learning": find(own), "chance": round(len(wrong) / 10, 1),
            "significant": len(named), "of_them_wrong": sum(hurt), "test": tested.sentence if tested else "",
            "cpu_s": round(spent), "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip


@dataclass
class InfluenceTable:
    """Numbers by method, one for each seed."""

    found: dict[str, list[float]] = field(default_factory=dict)
    """Shares of the wrong labels in the worst tenth."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    lds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: dict[str, list[float]], name: str, value: float) -> None:
        """One more number."""
        column.setdefault(name, []).append(value)


def measure_seed(options: argparse.Namespace, seed: int, table: InfluenceTable) -> None:
    """Train on the rows of one seed, and rank its wrong labels."""
    draw = random.Random(seed)
    make = planted_order if options.order else planted
    drawn = [make(draw) for _ in range(options.rows + options.held_out)]
    texts = [one[:2] for one in drawn]
    wrong = set(draw.sample(range(options.rows), options.rows // 20))
    labels = [
        (str(drawn[at][2]) if options.order else draw.choice([name for name in CLASSES if name != label]))
        if at in wrong
        else label
        for at, (_, label) in enumerate(texts)
    ]
    examples = [row(text, label, at + 2) for at, ((text, _), label) in enumerate(zip(texts, labels, strict=True))]
    train, held = examples[: options.rows], examples[options.rows :]
    worst = options.rows // 10
    with tempfile.TemporaryDirectory() as folder:
        env = make_env(Path(folder), train)
        step = Tune(
            data="data", technique=FullFineTuning(), objective=Classify(head="sequence"), batch_size=12,
            epochs=options.epochs, learning_rate=2e-3, dtype="float32", keep_states=4,
        )  # fmt: skip
        model = env.tune(step)
        work = StepContext(
            name="taught", inputs={"data": env.data, "model": env.base}, folder=Path(folder),
            scratch=Path(folder) / "scratch", recipe_dir=Path(folder), seed=3,
        )  # fmt: skip
        study = InfluenceStudy(step, model, work, held)
        order = [study.numbers[example.id] for example in train]
        scores = {}
        for method in map(InfluenceMethod.parse, options.methods):
            started = time.process_time()
            scores[method.kind] = method.score(study, EngineSettings())[0]
            table.add(table.seconds, method.kind, time.process_time() - started)
            own = scores[method.kind][order].numpy()
            named = set(numpy.argsort(own, kind="stable")[:worst].tolist())
            table.add(table.found, method.kind, len(wrong & named) / len(wrong))
        if options.retrainings:
            for kind, number in verify_scores(study, scores, options.retrainings, worst)[0].items():
                table.add(table.lds, kind, number.value)
    codes = numpy.array([CLASSES.index(label) for label in labels[: options.rows]])
    words = [text for text, _ in texts[: options.rows]]
    shares = predict_texts_out_of_fold(words, codes, seed=seed).probabilities
    doubted = find_label_errors(codes, shares)
    own = shares[numpy.arange(len(codes)), codes] - shares.max(1) - doubted
    named = set(numpy.argsort(own, kind="stable")[:worst].tolist())
    table.add(table.found, "confident learning", len(wrong & named) / len(wrong))
    table.add(table.found, "chance", 0.1)
    print({name: round(values[-1], 2) for name, values in table.found.items()}, flush=True)


def main() -> None:
    """Run it over some seeds and print the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=120)
    arguments.add_argument("--retrainings", type=int, default=0)
    arguments.add_argument("--order", action="store_true", help="the class is that of the first of two words")
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--held-out", type=int, default=40)
    arguments.add_argument("--methods", nargs="+", default=["adam", "tracin", "ekfac", "replay", "nearest"])
    arguments.add_argument("--texts", type=Path, help="real texts, one a line")
    arguments.add_argument("--labels", type=Path, help="their classes, one a line")
    arguments.add_argument("--classes", nargs=2, default=["0=negative", "2=positive"], metavar="CLASS=NAME")
    options = arguments.parse_args()
    if options.texts is not None:
        for seed in range(options.seeds):
            print(json.dumps(measure_real(options, seed)), flush=True)
        return
    table = InfluenceTable()
    for seed in range(options.seeds):
        measure_seed(options, seed, table)
    lines = [
        f"Share of {options.rows // 20} planted wrong labels of {options.rows} rows in the worst tenth, mean of "
        f"{options.seeds} seeds (lowest, highest), torch {torch.__version__}, {torch.get_num_threads()} threads",
        *(
            f"{name:20} {numpy.mean(values):.2f} ({min(values):.2f}, {max(values):.2f})"
            + (f"  {numpy.mean(table.seconds[name]):.1f} CPU s" if name in table.seconds else "")
            + (f"  LDS {numpy.mean(table.lds[name]):+.2f}" if name in table.lds else "")
            for name, values in table.found.items()
        ),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
