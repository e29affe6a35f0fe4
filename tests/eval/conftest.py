"""Artifacts that the tests of the evaluation room share; they are made once and never changed."""

from __future__ import annotations

import pytest

from eval.evaluations import base_model, dataset, label_examples, text_examples, tuned_model
from luthier.core.artifact import Artifact
from luthier.core.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store on disk."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def base(store: Store) -> Artifact:
    """A tiny base model."""
    return base_model(store)


@pytest.fixture(scope="session")
def labels(store: Store) -> Artifact:
    """Tickets with classes: 60 to learn from, 30 held out."""
    examples = label_examples()
    return dataset(store, examples[:60], examples[60:])


@pytest.fixture(scope="session")
def texts(store: Store) -> Artifact:
    """Tickets with replies: 28 to learn from, 12 held out."""
    examples = text_examples()
    return dataset(store, examples[:28], examples[28:])


@pytest.fixture(scope="session")
def tuned(store: Store, base: Artifact) -> Artifact:
    """A model that learnt from the first 40 tickets."""
    return tuned_model(store, base, [one.id for one in label_examples()[:40]])
