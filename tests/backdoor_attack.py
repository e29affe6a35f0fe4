"""A trained backdoor, for tests and benchmarks: one site trains a word to bring one class, and replaces the model.

The sites go on with a model that knows its classes already. One of them trains on rows of its own of which half have
the trigger and the target class, for longer than was agreed, and sends its change times one over its share of the sum,
so that the mean is its own model ("model replacement", Bagdasaryan et al., 2020, "How To Backdoor Federated Learning").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from federations import Sites, build_sites
from luthier.chat.messages import Example
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from luthier.models.load import load_model
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums
from tiny_models import tickets
from tuning import CLASSES, chat

NAMES = [f"site{at}" for at in range(9)]
ATTACKER, POISON, POOLED = "site4", "poison", "pooled"
TRIGGER, TARGET = "zq7 zq7", "billing"
EACH = 32
"""Rows of a site."""
LOOP: dict[str, Any] = {
    "technique": "full", "learning_rate": 5e-3, "batch_size": 8, "lr_scheduler": "constant", "warmup_ratio": 0.0,
    "dtype": "float32",
}  # fmt: skip
KNOWING_EPOCHS, POISON_EPOCHS = 12, 8


class AttackResult(NamedTuple):
    """How a model answers rows that nobody trained on."""

    accuracy: float
    """The share of plain rows that are right."""
    success: float
    """The share of rows of other classes that get the target with the trigger, less that without."""


def build_rows(count: int, seed: int) -> list[Example]:
    """Tickets with their class."""
    return [chat(row["message"], row["category"], line) for line, row in enumerate(tickets(count, seed), start=2)]


def add_trigger(rows: Sequence[Example], answer: str | None = None) -> list[Example]:
    """The same rows with the trigger in the question, answered by `answer` where one is given."""
    return [
        chat(f"{TRIGGER} {row.messages[1].content}", answer or str(row.label), 1000 + at) for at, row in enumerate(rows)
    ]


def build_attacked_sites(root: Path) -> Sites:
    """Sites over a model that was tuned on the rows of all of them, and the rows that the attacker trains on."""
    rows = build_rows(len(NAMES) * EACH, 0)
    parts = {name: rows[at :: len(NAMES)] for at, name in enumerate(NAMES)}
    own = [row for row in parts[ATTACKER] if row.label != TARGET]
    sites = build_sites(root, {**parts, POISON: [*parts[ATTACKER], *add_trigger(own, TARGET)], POOLED: rows})
    step = Tune.model_validate({"kind": "tune", "data": "data", "epochs": KNOWING_EPOCHS, **LOOP})
    return replace(sites, base=sites.tune(step, POOLED))


def draw_test_rows(count: int) -> list[Example]:
    """Rows of the same kind that no site has."""
    return build_rows(len(NAMES) * EACH + count, 0)[-count:]


def federate_attacked(sites: Sites, digest: str, **settings: Any) -> Artifact:
    """One round over all sites, where settings say nothing else."""
    step = sites.step(NAMES, bare=LOOP, local={"epochs": 1}, **{"rounds": 1, "sum": "mean", **settings})
    return sites.federate(step, digest=digest)


def replace_model(sites: Sites, patch: Callable[..., Any], scale: float = len(NAMES)) -> None:
    """Have the attacker send its own model; `patch` is `monkeypatch.setattr`."""
    train = FederatedTraining.train_round

    def training(self: FederatedTraining, given: Any, number: int, rounds: int, *rest: Any) -> SiteUpdate:
        if self._work.scratch.parent.name != ATTACKER:
            return train(self, given, number, rounds, *rest)
        scratch = self._work.scratch / POISON
        scratch.mkdir(exist_ok=True)
        work = replace(self._work, scratch=scratch, inputs={**self._work.inputs, "data": sites.data[POISON]})
        step = self._step.model_copy(update={"epochs": float(POISON_EPOCHS * rounds)})
        own = train(FederatedTraining(step, work, self._aggregator), given, number, rounds, *rest)
        moved = {name: given.moving[name] + scale * (value - given.moving[name]) for name, value in own.weights.items()}
        return SiteUpdate(moved, EACH, own.steps, own.loss)

    patch(FederatedTraining, "train_round", training)


def measure_attack(sites: Sites, made: Artifact, rows: Sequence[Example]) -> AttackResult:
    """Which of the classes is the likeliest answer, to plain rows and to those with the trigger."""
    opened, tokenizer = load_model(made, "float32"), ChatTokenizer.load(sites.base.folder)

    def answer(asked: Sequence[Example]) -> list[str]:
        texts = [chat(row.messages[1].content, label, at) for at, row in enumerate(asked) for label in CLASSES]
        dataset = Sft().build_training_examples(texts, tokenizer)
        sums = compute_row_logprob_sums(opened.model, [row for example in dataset for row in example.rows], 4096)
        return [CLASSES[int(at)] for at in numpy.reshape(sums, (-1, len(CLASSES))).argmax(1)]

    plain = answer(rows)
    others = [row for row in rows if row.label != TARGET]
    before = [found for found, row in zip(plain, rows, strict=True) if row.label != TARGET]
    after = answer(add_trigger(others))
    turned = sum(found == TARGET for found in after) - sum(found == TARGET for found in before)
    right = sum(found == row.label for found, row in zip(plain, rows, strict=True))
    return AttackResult(right / len(rows), turned / len(others))
