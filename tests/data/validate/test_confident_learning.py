"""Confident learning gives what its authors' own library gives on the same probabilities."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from luthier.data.validate.confident_learning import confident_joint, find_label_errors, noise_counts


def _noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which some are wrong, and probabilities that know a little."""
    random = np.random.default_rng(seed)
    rows, classes = int(random.integers(40, 600)), int(random.integers(2, 9))
    true = random.integers(0, classes, rows)
    codes = np.where(random.random(rows) < random.uniform(0, 0.3), random.integers(0, classes, rows), true)
    codes[:classes] = np.arange(classes)
    logits = random.normal(size=(rows, classes)) * random.uniform(0.5, 2)
    logits[np.arange(rows), true] += random.uniform(0.5, 4)
    chances = np.exp(logits)
    return codes, chances / chances.sum(axis=1, keepdims=True)


def _has_ties(codes: np.ndarray, chances: np.ndarray) -> bool:
    """Whether two cells of a class are rounded by a tie, where the last bit of a sum decides."""
    joint = confident_joint(codes, chances).astype(float)
    scaled = joint / joint.sum(axis=1, keepdims=True) * np.bincount(codes)[:, None]
    rests = np.sort(scaled - scaled.round(), axis=1)
    return bool(((np.diff(rests, axis=1) < 1e-6) & (np.abs(rests[:, 1:]) > 1e-6)).any())


@pytest.mark.parametrize("seed", range(40))
def test_equals_cleanlab(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs_of = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed").find_label_issues
        joint_of = pytest.importorskip("cleanlab.count").compute_confident_joint
        codes, chances = _noisy(seed)
        theirs = theirs_of(codes, chances, n_jobs=1)
        joint = joint_of(codes, chances, calibrate=False)
    assert (confident_joint(codes, chances) == joint).all()
    differ = int((find_label_errors(codes, chances) != theirs).sum())
    assert differ == 0 or (_has_ties(codes, chances) and differ == 1)


def test_counts_keep_the_rows_of_every_class() -> None:
    for seed in range(20):
        codes, chances = _noisy(seed)
        counts = noise_counts(codes, chances)
        assert (counts >= 0).all()
        assert counts.diagonal().min() >= 1
        assert abs(int(counts.sum()) - len(codes)) <= len(counts)


def test_a_label_that_is_the_likeliest_class_is_never_doubted() -> None:
    codes, chances = _noisy(3)
    assert not (find_label_errors(codes, chances) & (chances.argmax(axis=1) == codes)).any()


def test_certain_labels_are_left_alone() -> None:
    codes = np.arange(30) % 3
    assert not find_label_errors(codes, np.eye(3)[codes]).any()
