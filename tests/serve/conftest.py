"""One gateway for all tests that only ask: a tiny model, one that can call functions, one that chooses classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luthier.core.artifact import Artifact
from luthier.serve.engines.label import LabelEngine
from luthier.serve.engines.torch import TorchEngine
from luthier.serve.openai.request_state import EmbedderRunner
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from serving import Served, model_in, serving
from tests.chat.families import family
from tiny_models import tiny_encoder
from tuning import examples, make_env


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random model."""
    return model_in(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random model with Qwen 2.5's chat template, which knows calls of functions."""
    return model_in(tmp_path_factory.mktemp("caller"), "caller", tokenizer=family("qwen2_5"))


@pytest.fixture(scope="session")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that was tuned to choose a class."""
    rows = examples(48)
    env = make_env(tmp_path_factory.mktemp("chooser"), rows[:24], rows[24:])
    step = Tune(data="data", technique=Lora(r=4), objective=Sft(), batch_size=8, learning_rate=1e-2, epochs=1)
    return env.tune(step)


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny: Artifact, caller: Artifact, chooser: Artifact
) -> Iterator[Served]:
    """A gateway over all of them."""
    from luthier.models.embeddings.sentence import SentenceEncoder

    place = tmp_path_factory.mktemp("served")
    encoder = tiny_encoder(place / "encoder")
    models = {
        "tiny": lambda: TorchEngine(dtype="float32").open(tiny),
        "caller": lambda: TorchEngine(dtype="float32").open(caller),
        "chooser": lambda: LabelEngine(dtype="float32").open(chooser),
        "encoder": lambda: EmbedderRunner(SentenceEncoder(encoder), "e" * 32),
    }
    with serving(models, place / "ledger.db") as found:
        yield found
