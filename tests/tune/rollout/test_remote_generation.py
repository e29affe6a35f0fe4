"""Answers drawn by an engine elsewhere: by our own gateway over real HTTP, and by servers that cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import ModelError
from luthier.models.load import open_folder
from luthier.models.packing.pack import TokenRow
from luthier.tune.rollout.generate import RolloutPrompt, create_random_stream
from luthier.tune.rollout_generators.endpoint import EndpointRolloutGenerator
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.reference_logprobs import compute_row_logprobs
from policies import REGEX
from tests.serving import Served, serving
from tuning import TuneEnv, examples, make_env


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def answered(logprobs: Any, finish: str = "length") -> Any:
    """A server that answers every prompt alike."""
    return lambda body: {"choices": [{"index": 0, "text": "x", "logprobs": logprobs, "finish_reason": finish}]}


@pytest.fixture(scope="module")
def served(env: TuneEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Our own gateway over the very model that is tuned."""
    from luthier.serve.engines.torch import TorchEngine

    ledger = tmp_path_factory.mktemp("gateway") / "ledger.db"
    with serving({"tiny": lambda: TorchEngine(dtype="float32").open(env.base)}, ledger) as found:
        yield found


def test_our_own_gateway_tells_every_token_with_its_likelihood(env: TuneEnv, served: Served, tmp_path: Path) -> None:
    text = ChatTokenizer.load(env.base.folder)
    given = text.prompts([one.messages[:-1] for one in examples(6)])
    writer = EndpointRolloutGenerator(url=f"{served.root}/v1", model="tiny")
    prompts = [RolloutPrompt(ids, create_random_stream(1, at)) for at, ids in enumerate(given)]
    answers = writer.write(prompts, text, 24, tmp_path)
    model = open_folder(env.base.folder, torch.float32)
    rows = [TokenRow([*one.prompt, *one.ids], [0.0] * len(one.prompt) + [1.0] * len(one.ids), "") for one in answers]
    for answer, found in zip(answers, compute_row_logprobs(model, rows, 1 << 14), strict=True):
        assert answer.logprobs == pytest.approx(found, abs=1e-4)
        assert answer.ended == (answer.ids[-1] in text.end_ids)
        assert answer.ended or len(answer.ids) == 24
    assert writer.write(prompts, text, 24, tmp_path) == answers
    assert len({tuple(one.ids) for one in answers}) == len(answers)


def test_a_policy_learns_from_what_another_engine_draws(env: TuneEnv, served: Served) -> None:
    """The engine keeps its weights: what it draws grows old, which is told and corrected."""
    writer = {"kind": "endpoint", "url": f"{served.root}/v1", "model": "tiny"}
    rollout = {"num_generations": 4, "max_completion_length": 6, "writer": writer}
    made = Tune(data="data", objective={"kind": "grpo", "rewards": [REGEX], "rollout": rollout}, technique=Lora(r=4),
                batch_size=4, max_train_samples=24, epochs=2.0, learning_rate=2e-2, dtype="float32")  # fmt: skip
    told = [json.loads(line) for line in (env.tune(made).folder / "log.jsonl").read_text().splitlines()]
    apart = [line["written_apart"] for line in told if "written_apart" in line]
    assert apart[0] < 1e-4 < max(apart[1:])


WRONG = {
    "gives no log-probabilities": answered(None),
    "gives no log-probabilities ": answered({"tokens": ["token_id:5"], "token_logprobs": [None]}),
    "names tokens by their text": answered({"tokens": [" the"], "token_logprobs": [-1.0]}),
    "of another vocabulary": answered({"tokens": ["token_id:99999"], "token_logprobs": [-1.0]}),
    "which ends no turn": answered({"tokens": ["token_id:7"], "token_logprobs": [-1.0]}, "stop"),
}


@pytest.mark.parametrize("why", WRONG)
def test_a_server_that_cannot_is_told_apart(why: str, env: TuneEnv, tmp_path: Path, monkeypatch: Any) -> None:
    from luthier.models.lm.openai_client import EndpointLM

    monkeypatch.setattr(EndpointLM, "_call", lambda self, http, path, body: WRONG[why](body))
    text = ChatTokenizer.load(env.base.folder)
    with pytest.raises(ModelError, match=why.strip()) as caught:
        EndpointRolloutGenerator(url="http://127.0.0.1:9/v1", model="m").write(
            [RolloutPrompt([5, 6], 1)], text, 4, tmp_path
        )
    assert caught.value.where.field == "objective.rollout.writer"
    assert "vLLM" in str(caught.value.hint)


def test_without_a_correction_it_is_refused() -> None:
    writer = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(ValueError, match="learnt with `correct`"):
        Tune(
            data="data", objective={"kind": "grpo", "rewards": [REGEX], "rollout": {"writer": writer}, "correct": None}
        )
