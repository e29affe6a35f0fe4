"""Attacks on private rows, for tests and benchmarks: rebuilding a row's tokens from one update, telling members by
shadow models, and the bound of epsilon that right guesses prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from scipy.stats import binom, norm
from torch import Tensor

from federations import Sites
from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.chat.tokenizer import ChatTokenizer
from luthier.federated.messaging.messages import FederationMessage, RoundStart, RoundUpdate
from luthier.federated.secure_aggregation.masks import MASKED
from luthier.federated.transport import LocalChannel
from luthier.models.load import load_model
from luthier.tune.objectives.sft import Sft
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums

FIRST = "layers.0.self_attn.{}_proj.lora_{}.default.weight"
"""Weights of LoRA that read the first layer's inputs, in which each token stands alone."""


NAMES = ["north", "south", "west"]
ONE_STEP: dict[str, Any] = {
    "technique": {"kind": "lora", "r": 32, "lora_alpha": 32}, "optimizer": {"kind": "sgd", "momentum": 0.0},
    "learning_rate": 1e-2, "lr_scheduler": "constant", "warmup_ratio": 0.0, "max_grad_norm": None, "batch_size": 1,
    "on_loss_spike": "off",
}  # fmt: skip


def row(question: str, answer: str, line: int) -> Example:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    origin = ExampleOrigin(source="csv", file="rows.csv", line=line)
    return Example(id=example_id(messages, None, {}, line), origin=origin, kind="chat", messages=messages)


SECRET_ROWS = [
    row("my card was taken twice", "refund", 1),
    row("where is the parcel", "late", 2),
    row("new login", "account", 3),
]


class HeardRound(NamedTuple):
    """What a coordinator sends and gets in a round, by site."""

    given: Mapping[str, Tensor]
    updates: Mapping[str, Mapping[str, Tensor]]


def hear_round(patch: Callable[..., Any], number: int = 1) -> list[HeardRound]:
    """Listen to a round at the coordinator; `patch` is `monkeypatch.setattr`."""
    iterate, heard = LocalChannel.iterate_answers, list[HeardRound]()

    def hearing(self: Any, at: int, contents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        found: dict[str, Mapping[str, Tensor]] = {}
        for name, reply in iterate(self, at, contents):
            if at == number:
                found[name] = FederationMessage.decode(reply, RoundUpdate).tensors
            yield name, reply
        if at == number:
            given = FederationMessage.decode(next(iter(contents.values())), RoundStart).tensors
            bare = {name.removeprefix("weight/"): value for name, value in given.items()}
            heard.append(HeardRound(bare, found))

    patch(LocalChannel, "iterate_answers", hearing)
    return heard


def list_row_tokens(sites: Sites, row: Example) -> set[int]:
    """The tokens that a training on one row reads."""
    [example] = Sft().build_training_examples([row], ChatTokenizer.load(sites.base.folder))
    return set(example.rows[0].ids[:-1])


def rebuild_tokens(sites: Sites, heard: HeardRound, change: Mapping[str, Tensor], count: int) -> set[int]:
    """The `count` tokens whose inputs lie nearest to the span of the first layer's gradients (DAGER, Petrov et al.,
    2024): after one step from B = 0, each row of B's change is a mix of A's products with the row's own tokens."""
    opened = load_model(sites.base, "float32").model
    with torch.no_grad():
        inputs = opened.model.layers[0].input_layernorm(opened.get_input_embeddings().weight).double()
    mixes = []
    for part in ("q", "k", "v"):
        down = next(value for name, value in heard.given.items() if name.endswith(FIRST.format(part, "A")))
        moved = next(value for name, value in change.items() if name.endswith(FIRST.format(part, "B")))
        mix = moved.double() @ torch.linalg.pinv(down.double()).T
        mixes.append(mix / mix.norm().clamp_min(1e-300))
    _, sizes, ways = torch.linalg.svd(torch.cat(mixes), full_matrices=False)
    basis = ways[sizes > 1e-6 * sizes.max()][:count]
    seen = torch.nn.functional.normalize(inputs, dim=1)
    apart = (seen - seen @ basis.T @ basis).square().sum(1)
    return {int(at) for at in apart.argsort()[:count]}


def read_masked(heard: HeardRound, name: str) -> Mapping[str, Any]:
    """What a site sent, by weight; masked numbers as they come, in place of weights."""
    sent = heard.updates[name]
    if MASKED not in sent:
        return sent
    numbers, read, at = sent[MASKED].double() / 2**63, dict[str, Any](), 0
    for key, value in sorted((key, value) for key, value in heard.given.items() if "lora_B" in key):
        read[key] = numbers[at : at + value.numel()].reshape(value.shape)
        at += value.numel()
    return read


def score_candidates(right: set[int], found: set[int]) -> float:
    """The share of a row's tokens that were found."""
    return len(right & found) / len(right)


def score_rows(sites: Sites, model: Any, rows: Sequence[Example]) -> numpy.ndarray[Any, Any]:
    """(rows,) the logit of each answer's probability by a model, as in LiRA."""
    opened = load_model(model, "float32")
    dataset = Sft().build_training_examples(rows, ChatTokenizer.load(sites.base.folder))
    sums = compute_row_logprob_sums(opened.model, [row for example in dataset for row in example.rows], 4096)
    return numpy.asarray([value - math.log(max(1e-300, -math.expm1(min(value, -1e-12)))) for value in sums])


def compare_likelihoods(
    target: numpy.ndarray[Any, Any], shadows: numpy.ndarray[Any, Any], inside: numpy.ndarray[Any, Any]
) -> numpy.ndarray[Any, Any]:
    """(rows,) log-ratio of a row's score under models that saw it and that did not (LiRA, Carlini et al., 2022), with
    one spread for all rows. `shadows` are scores (models, rows), `inside` whether a model saw a row."""
    means = [numpy.asarray([shadows[inside[:, at] == seen, at].mean() for at in range(len(target))]) for seen in (1, 0)]
    spreads = [numpy.std((shadows - means[0 if seen else 1])[inside == seen]) + 1e-6 for seen in (1, 0)]
    densities = [norm.logpdf(target, mean, spread) for mean, spread in zip(means, spreads, strict=True)]
    found: numpy.ndarray[Any, Any] = densities[0] - densities[1]
    return found


def bound_epsilon(rows: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The epsilon below which so many right guesses, of rows that were in by a coin each, have a chance of less than
    `1 - confidence` (Steinke, Nasr & Jagielski, 2023, theorem 5.2)."""

    def find_chance(epsilon: float) -> float:
        q = 1 / (1 + math.exp(-epsilon))
        beta = float(binom.sf(right - 1, guesses, q))
        total = alpha = 0.0
        for at in range(1, right + 1):
            total += float(binom.pmf(right - at, guesses, q))
            alpha = max(alpha, total / at)
        return beta + 2 * rows * delta * alpha

    low, high = 0.0, 20.0
    if find_chance(0.0) > 1 - confidence:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if find_chance(middle) <= 1 - confidence else (low, middle)
    return low


def audit_scores(
    scores: numpy.ndarray[Any, Any], inside: numpy.ndarray[Any, Any], delta: float
) -> tuple[float, int, int]:
    """The bound of epsilon by guessing the highest scores in and the lowest out; and the guesses, and the right ones.

    How many are guessed is fixed beforehand: a third of the rows at each end."""
    each = max(1, len(scores) // 3)
    order = numpy.argsort(scores, kind="stable")
    right = int(inside[order[-each:]].sum() + (1 - inside[order[:each]]).sum())
    return bound_epsilon(len(scores), 2 * each, right, delta), 2 * each, right
