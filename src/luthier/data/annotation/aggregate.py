"""Aggregate votes into labels with two generative models fitted by EM: Dawid-Skene, and one accuracy per voter.

Dawid and Skene 1979: every annotator has a whole table of what is said for each true label. The other model is that of
weak supervision (Ratner et al. 2016): every labelling function has one accuracy, and mistakes are spread evenly; it
needs fewer votes. In both, silence says nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_LEAST = 1e-10
"""No probability is smaller."""
_STEADY = 1e-5
"""The bound's gain in a round, a vote, below which the fit stands."""
ROUNDS = 100
INITIAL_ACCURACY = 0.7
"""The initial and prior mean accuracy of every labelling function (Snorkel's default)."""
PRIOR_VOTES = 10.0
"""The weight of the prior accuracy, as a number of votes."""


@dataclass(frozen=True)
class VoteMatrix:
    """Votes as numbers: one entry a vote; every item has one."""

    item: Ints
    voter: Ints
    label: Ints
    items: int
    voters: list[str]
    labels: list[Any]

    @classmethod
    def of(cls, items: Sequence[Sequence[tuple[str, Hashable]]]) -> VoteMatrix:
        """From (annotator, label) pairs by item; names and labels are sorted, so that their order does not count."""
        voters = sorted({voter for votes in items for voter, _ in votes})
        labels = sorted({label for votes in items for _, label in votes}, key=lambda label: (str(type(label)), label))
        number, code = {name: at for at, name in enumerate(voters)}, {label: at for at, label in enumerate(labels)}
        flat = [
            (at, number[voter], code[label])
            for at, votes in enumerate(items)
            for voter, label in sorted(votes, key=str)
        ]
        columns = np.array(flat, dtype=np.int64).reshape(-1, 3).T
        return cls(columns[0], columns[1], columns[2], len(items), voters, labels)

    def shares(self) -> Floats:
        """(items, labels): the share of an item's votes that each label has."""
        counts = np.zeros((self.items, len(self.labels)))
        np.add.at(counts, (self.item, self.label), 1.0)
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class LabelModelFit:
    """A fitted model."""

    probabilities: Floats
    """(items, labels), rows that add up to one."""
    quality: Floats
    """(voters,): the share of right votes that is expected of each."""


def dawid_skene(vote_matrix: VoteMatrix) -> LabelModelFit:
    """Fit a table of confusions for each voter; begins from shares of votes, as crowd-kit does."""
    cell = (vote_matrix.voter, vote_matrix.label)
    labels_used = np.zeros((len(vote_matrix.voters), len(vote_matrix.labels)), dtype=bool)
    labels_used[cell] = True
    known = vote_matrix.shares()
    tables = _tables(vote_matrix, known, labels_used)
    priors, before = known.mean(axis=0), -np.inf
    for _ in range(ROUNDS):
        vote_loglik = np.log(np.where(labels_used[..., None], tables, 1.0))[cell]
        known = _posterior(vote_matrix, vote_loglik, np.log(np.maximum(priors, _LEAST)))
        priors = known.mean(axis=0)
        tables = _tables(vote_matrix, known, labels_used)
        bound = _bound(vote_matrix, known, np.log(np.where(labels_used[..., None], tables, 1.0))[cell], priors)
        if bound - before < _STEADY:
            break
        before = bound
    right = np.einsum("vkk->vk", np.where(labels_used[..., None], tables, 0.0))
    return LabelModelFit(known, _expected(vote_matrix, known, right))


def fit_one_accuracy_per_voter(vote_matrix: VoteMatrix, balance: Floats | None = None) -> LabelModelFit:
    """Fit one accuracy for each voter; `balance` holds the labels' shares where they are known.

    A voter learns from the items on which somebody else voted, too: alone, it would only confirm itself. Unknown shares
    are taken half from the votes, so that a label that one voter alone stands for does not wither.
    """
    number = len(vote_matrix.labels)
    accuracy = np.full(len(vote_matrix.voters), INITIAL_ACCURACY)
    shares = vote_matrix.shares()
    priors = np.full(number, 1 / number) if balance is None else balance
    is_shared = (np.bincount(vote_matrix.item, minlength=vote_matrix.items) > 1)[vote_matrix.item].astype(np.float64)
    votes = np.bincount(vote_matrix.voter, is_shared, minlength=len(vote_matrix.voters))
    known = shares
    for _ in range(ROUNDS):
        wrong = np.log(np.maximum(1 - accuracy, _LEAST) / max(1, number - 1))[vote_matrix.voter]
        vote_loglik = np.repeat(wrong[:, None], number, axis=1)
        vote_loglik[np.arange(len(vote_loglik)), vote_matrix.label] = np.log(accuracy)[vote_matrix.voter]
        known = _posterior(vote_matrix, vote_loglik, np.log(np.maximum(priors, _LEAST)))
        right = np.bincount(
            vote_matrix.voter, is_shared * known[vote_matrix.item, vote_matrix.label], minlength=len(votes)
        )
        fresh = (right + PRIOR_VOTES * INITIAL_ACCURACY) / (votes + PRIOR_VOTES)
        moved, accuracy = np.abs(fresh - accuracy).max(initial=0.0), fresh
        if balance is None:
            priors = (known.mean(axis=0) + shares.mean(axis=0)) / 2
        if moved < _STEADY:
            break
    return LabelModelFit(known, accuracy)


def _tables(vote_matrix: VoteMatrix, known: Floats, labels_used: NDArray[np.bool_]) -> Floats:
    """(voters, said, true): how often each voter says what, given the truth."""
    tables = np.zeros((len(vote_matrix.voters), len(vote_matrix.labels), len(vote_matrix.labels)))
    np.add.at(tables, (vote_matrix.voter, vote_matrix.label), known[vote_matrix.item])
    tables = np.where(labels_used[..., None], np.maximum(tables, _LEAST), 0.0)
    return np.asarray(tables / tables.sum(axis=1, keepdims=True))


def _posterior(vote_matrix: VoteMatrix, vote_loglik: Floats, priors: Floats) -> Floats:
    """(items, labels): probabilities given the votes' log-likelihoods, (votes, labels)."""
    logs = np.tile(priors, (vote_matrix.items, 1))
    np.add.at(logs, vote_matrix.item, vote_loglik)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _bound(vote_matrix: VoteMatrix, known: Floats, vote_loglik: Floats, priors: Floats) -> float:
    """Return the EM objective (the evidence lower bound) per vote."""
    expected_loglik = known[vote_matrix.item] * (vote_loglik + np.log(np.maximum(priors, _LEAST)))
    known = np.maximum(known, _LEAST)
    return float((expected_loglik.sum() - (known * np.log(known)).sum()) / len(vote_matrix.item))


def _expected(vote_matrix: VoteMatrix, known: Floats, right: Floats) -> Floats:
    """(voters,): the diagonals of the tables, weighed by how often each label was true where the voter spoke."""
    met = np.zeros((len(vote_matrix.voters), len(vote_matrix.labels)))
    np.add.at(met, vote_matrix.voter, known[vote_matrix.item])
    return np.asarray((right * met).sum(axis=1) / np.maximum(met.sum(axis=1), _LEAST))
