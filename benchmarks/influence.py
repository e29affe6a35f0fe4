"""Planted wrong labels: how many of them influence ranks worst, beside confident learning and chance; and the LDS.

A tiny Llama learns which class a text has by one word of six; one label in twenty is wrong. Run from the root of the
repository: `PYTHONPATH=src:tests:. python benchmarks/influence.py`. Results go to `benchmarks/results/influence.txt`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy
import torch

from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.core.step import StepContext
from luthier.data.validate.confident_learning import find_label_errors
from luthier.models.text_classifier import predict_texts_out_of_fold
from luthier.tune.influence.method import EngineSettings
from luthier.tune.influence.methods.adam import AdamInfluence
from luthier.tune.influence.methods.ekfac import Ekfac
from luthier.tune.influence.methods.nearest import Nearest
from luthier.tune.influence.methods.replay import Replay
from luthier.tune.influence.methods.tracin import TracIn
from luthier.tune.influence.study import InfluenceStudy
from luthier.tune.influence.verify import verify_scores
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from tests.explain.planted import EVIDENCE, planted
from tuning import bench

RESULTS = Path(__file__).parent / "results" / "influence.txt"
CLASSES = sorted(set(EVIDENCE.values()))


def row(text: str, label: str, line: int) -> Example:
    """A text with its class."""
    messages = (Message(role="user", content=text), Message(role="assistant", content=label))
    origin = ExampleOrigin(source="csv", file="rows.csv", line=line)
    return Example(
        id=example_id(messages, label, {}, line), origin=origin, kind="label", messages=messages, label=label
    )


def main() -> None:
    """Run it over some seeds and write the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=120)
    arguments.add_argument("--retrainings", type=int, default=0)
    options = arguments.parse_args()
    found: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    lds: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        draw = random.Random(seed)
        texts = [planted(draw)[:2] for _ in range(options.rows + 40)]
        wrong = set(draw.sample(range(options.rows), options.rows // 20))
        labels = [
            draw.choice([name for name in CLASSES if name != label]) if at in wrong else label
            for at, (_, label) in enumerate(texts)
        ]
        examples = [row(text, label, at + 2) for at, ((text, _), label) in enumerate(zip(texts, labels, strict=True))]
        train, held = examples[: options.rows], examples[options.rows :]
        worst = options.rows // 10
        with tempfile.TemporaryDirectory() as folder:
            shop = bench(Path(folder), train)
            step = Tune(
                data="data", technique=FullFineTuning(), objective=Classify(head="sequence"), batch_size=12, epochs=6,
                learning_rate=2e-3, dtype="float32", keep_states=4,
            )  # fmt: skip
            model = shop.tune(step)
            work = StepContext(
                name="taught", inputs={"data": shop.data, "model": shop.base}, folder=Path(folder),
                scratch=Path(folder) / "scratch", recipe_dir=Path(folder), seed=3,
            )  # fmt: skip
            study = InfluenceStudy(step, model, work, held)
            order = [study.numbers[example.id] for example in train]
            scores = {}
            for method in (AdamInfluence(), TracIn(), Ekfac(), Replay(), Nearest()):
                started = time.process_time()
                scores[method.kind] = method.score(study, EngineSettings())[0]
                seconds.setdefault(method.kind, []).append(time.process_time() - started)
                own = scores[method.kind][order].numpy()
                named = set(numpy.argsort(own, kind="stable")[:worst].tolist())
                found.setdefault(method.kind, []).append(len(wrong & named) / len(wrong))
            if options.retrainings:
                for kind, number in verify_scores(study, scores, options.retrainings, worst)[0].items():
                    lds.setdefault(kind, []).append(number.value)
        codes = numpy.array([CLASSES.index(label) for label in labels[: options.rows]])
        words = [text for text, _ in texts[: options.rows]]
        shares = predict_texts_out_of_fold(words, codes, seed=seed).probabilities
        doubted = find_label_errors(codes, shares)
        own = shares[numpy.arange(len(codes)), codes] - shares.max(1) - doubted
        found.setdefault("confident learning", []).append(
            len(wrong & set(numpy.argsort(own, kind="stable")[:worst].tolist())) / len(wrong)
        )
        found.setdefault("chance", []).append(0.1)
        print({name: round(values[-1], 2) for name, values in found.items()}, flush=True)
    lines = [
        f"Share of {options.rows // 20} planted wrong labels of {options.rows} rows in the worst tenth, mean of "
        f"{options.seeds} seeds (lowest, highest), torch {torch.__version__}, {torch.get_num_threads()} threads",
        *(
            f"{name:20} {numpy.mean(values):.2f} ({min(values):.2f}, {max(values):.2f})"
            + (f"  {numpy.mean(seconds[name]):.1f} CPU s" if name in seconds else "")
            + (f"  LDS {numpy.mean(lds[name]):+.2f}" if name in lds else "")
            for name, values in found.items()
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
