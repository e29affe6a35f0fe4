"""What the figures of federated tuning share: how they are printed, and which held-out rows a model answers rightly."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SITES = 10
CLASSES = 8
"""Of Banking77, the first by name."""


class Extent(NamedTuple):
    """How much is measured."""

    quick: bool
    """Fewer rows, rounds and numbers."""
    model: Path | None
    """A Hugging Face folder to measure over, beside or in place of a tiny model."""
    folder: Path | None
    """Where runs by a recipe stay, so that a stopped one goes on."""


def print_figure(figure: str, value: float, goal: str, unit: str) -> None:
    """One JSON line."""
    device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    print(json.dumps({"figure": figure, "value": value, "goal": goal, "unit": unit, "device": device}), flush=True)


def print_difference(figure: str, goal: str, one: list[bool], other: list[bool]) -> None:
    """The paired difference of two accuracies with its interval, and McNemar's p."""
    from scipy.stats import binomtest

    apart = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(apart) / len(apart)
    error = (sum((value - mean) ** 2 for value in apart) / (len(apart) - 1) / len(apart)) ** 0.5
    better, worse = apart.count(1), apart.count(-1)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    unit = f"accuracy, 95 % from {mean - 1.96 * error:+.3f} to {mean + 1.96 * error:+.3f}, p {p:.2g}, {len(one)} rows"
    print_figure(figure, round(mean, 4), goal, unit)


def answer_held_out(sites: Any, model: Any) -> list[bool]:
    """Which held-out tickets a model answers rightly."""
    from luthier.eval.evaluator import TUNED
    from luthier.eval.predictions import read_answers
    from luthier.eval.steps.evaluate import Evaluate
    from luthier.federated.measure import describe_folder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = sites.work(sites.step(["site0"]), digest="ee" * 16)
        step = Evaluate(
            data="data", model="model", metrics=None, split="train", baselines=(), tasks=(), compare_base=False
        )
        inputs = {"data": sites.data["held_out"], "model": model}
        step.make(type(work)(name="e", inputs=inputs, folder=folder, scratch=folder, recipe_dir=folder, kept=None))
        _, found = read_answers(describe_folder(folder, model.digest, "evaluate", "evaluation", {}), TUNED)
        return [one in two for one, two in zip(found.predictions, found.references, strict=True)]
