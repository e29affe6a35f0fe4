"""Prompts that are read back with their log-probabilities, and models that are evaluated by them over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.lm_eval.test_harness import benchmarks, write
from luthier.chat.plain_text import bos_or_eos_id
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, RollingLoglikelihoodRequest
from luthier.models.lm.local import LocalLM
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.sources.endpoint import EndpointModelSource
from serving import Served

TEXTS = ["My invoice is wrong", "the parcel", "Où est le colis ?", "a", " two  blanks ", "東京 is far"]


@pytest.fixture
def far(served: Served, near: LocalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EndpointLM:
    """The tiny model over HTTP."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    told = {"url": served.listening.url, "model": "tiny", "echo": True, "timeout_s": 30, "retries": 0}
    told["prefix_token_id"] = bos_or_eos_id(near.text)
    return EndpointLM(EndpointModelSource.model_validate(told), tmp_path)


@pytest.fixture(scope="module")
def near(tiny: Artifact) -> LocalLM:
    return LocalLM(tiny, "float32")


def test_likelihoods_equal_those_of_the_model_itself(far: EndpointLM, near: LocalLM) -> None:
    asked = [
        LoglikelihoodRequest(prompt=before, continuation=after, greedy=True)
        for before in ("", "Where is", "Where is ", "The answer:\n")
        for after in (" the parcel", "my invoice?", "é")
    ]
    likeliest = near.generate([GenerateRequest(prompt="Where is", max_tokens=1)])[0].text
    asked.append(LoglikelihoodRequest(prompt="Where is", continuation=likeliest, greedy=True))
    for one, other in zip(far.loglikelihood(asked), near.loglikelihood(asked), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert (one.tokens, one.is_greedy) == (other.tokens, other.is_greedy)


def test_whole_texts_and_continuations_equal_those_of_the_model_itself(far: EndpointLM, near: LocalLM) -> None:
    asked = [RollingLoglikelihoodRequest(text=text) for text in TEXTS]
    for one, other in zip(far.loglikelihood_rolling(asked), near.loglikelihood_rolling(asked), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.tokens == other.tokens
    begun = [GenerateRequest(prompt=text, max_tokens=6) for text in TEXTS]
    assert [one.text for one in far.generate(begun)] == [one.text for one in near.generate(begun)]


def test_a_task_of_the_harness_over_http(far: EndpointLM, near: LocalLM, tmp_path: Path) -> None:
    (benchmark,) = benchmarks(write(tmp_path / "task"), limit=4)
    assert benchmark.run(far.ask).columns["acc_norm"].each == benchmark.run(near.ask).columns["acc_norm"].each


def test_answers_begin_with_their_prompts(served: Served) -> None:
    def told(**more: Any) -> Any:
        asked = {"model": "tiny", "prompt": "My invoice", "logprobs": 2, "echo": True, **more}
        return served.post("/v1/completions", asked).json()

    alone, longer = told(max_tokens=0), told(max_tokens=3, n=2)
    (choice,) = alone["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("My invoice", "length")
    prompt = choice["logprobs"]
    assert alone["usage"]["prompt_tokens"] == len(prompt["tokens"]) == len(prompt["text_offset"])
    assert alone["usage"]["completion_tokens"] == 0
    assert all(len(top) <= 2 for top in prompt["top_logprobs"] if top is not None)
    for one in longer["choices"]:
        assert one["text"].startswith("My invoice")
        assert one["logprobs"]["token_logprobs"][: len(prompt["tokens"])] == prompt["token_logprobs"]
        assert len(one["logprobs"]["tokens"]) == len(prompt["tokens"]) + 3
    ids = told(prompt=[5, 6, 7], max_tokens=0)["choices"][0]["logprobs"]
    assert ids["token_logprobs"][0] is None
    assert ids["top_logprobs"][0] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_tokens": 0}, "goes with `echo: true` only"),
        ({"model": "chooser", "echo": True}, "/v1/chat/completions only"),
    ],
)
def test_what_cannot_be_read_back(served: Served, changes: dict[str, Any], said: str) -> None:
    found = served.post("/v1/completions", {"model": "tiny", "prompt": "a", **changes})
    assert found.status_code == 400
    assert said in found.json()["error"]["message"]


def test_a_server_that_reads_nothing_back_says_so(far: EndpointLM, tmp_path: Path) -> None:
    settings = far.settings.model_copy(update={"model": "chooser"})
    with pytest.raises(ModelError, match="only") as caught:
        EndpointLM(settings, tmp_path).loglikelihood([LoglikelihoodRequest(prompt="a", continuation="b")])
    assert "leave `echo` out" in str(caught.value.hint)
