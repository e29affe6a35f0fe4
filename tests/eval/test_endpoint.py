"""Evaluating a model behind an endpoint: written texts, labels by text, labels by the shares of first tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from endpoint import Body, Reply, Server, completion, serving
from eval.evaluations import made
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.eval.steps.evaluate import Evaluate
from luthier.models.lm.base import NO_LABEL
from luthier.models.sources.endpoint import EndpointModelSource
from models.making import make_base


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(lambda body: f"You wrote: {body['messages'][-1]['content']}") as found:
        yield found


def evaluation(store: Store, server: Server, data: Artifact, place: Path, **settings: object) -> Artifact:
    model = make_base(
        store, EndpointModelSource.model_validate({"url": server.url, "model": "tiny", **settings}), place
    )
    return made(store, Evaluate(data="data", baselines=()), {"data": data, "model": model})


def test_texts_are_written_and_measured(store: Store, texts: Artifact, server: Server, tmp_path: Path) -> None:
    found = evaluation(store, server, texts, tmp_path).read_json("metrics.json")["models"]["base"]
    assert found["exact_match"]["value"] == 1.0
    assert {body["max_tokens"] for body in server.asked} == {128}
    assert [turn["role"] for turn in server.asked[0]["messages"]] == ["system", "user"]


def test_labels_by_text_have_no_scores(store: Store, labels: Artifact, server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: "Billing!" if "charge" in body["messages"][-1]["content"] else "no idea"
    artifact = evaluation(store, server, labels, tmp_path)
    assert set(artifact.read_json("metrics.json")["models"]["base"]) == {"accuracy", "macro_f1", "mcc"}
    frame = pl.read_parquet(artifact.path("predictions.parquet"))
    assert set(frame["prediction"]) == {"billing", NO_LABEL}
    assert frame["scores"].null_count() == frame.height


def test_labels_by_first_tokens_have_scores(store: Store, labels: Artifact, server: Server, tmp_path: Path) -> None:
    words = {"bill": "invoice|charge|refund|payment|price", "del": "parcel|courier|address|shipment|tracking"}

    def answer(body: Body) -> Reply:
        asked = body["messages"][-1]["content"]
        likely = next((token for token, found in words.items() if re.search(found, asked)), "acc")
        other = "acc" if likely != "acc" else "bill"
        return Reply(completion(likely, body, {likely: math.log(0.8), other: math.log(0.1)}))

    server.answer = answer
    artifact = evaluation(store, server, labels, tmp_path, labels="logprobs")
    measures = artifact.read_json("metrics.json")["models"]["base"]
    assert set(measures) == {"accuracy", "macro_f1", "mcc", "ece", "brier"}
    assert measures["accuracy"]["value"] == 1.0
    assert 0.0 < measures["brier"]["value"] < 0.2
    assert len(server.asked) == 30


def test_tasks_of_the_harness_are_asked_by_echo(store: Store, texts: Artifact, server: Server, tmp_path: Path) -> None:
    """A server whose tokens are characters, and which finds two of the digits less likely."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (`lm-eval`)")
    from eval.lm_eval.test_harness import write

    def answer(body: Body) -> Reply | str:
        if "messages" in body:
            return "I do not know"
        tokens = ["<s>", *body["prompt"]]
        logprobs = [None, *(-1.0 - (token in "48") for token in tokens[1:])]
        told = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": [None] * len(tokens)}
        return Reply({"choices": [{"text": body["prompt"], "logprobs": told}]})

    server.answer = answer
    file = write(tmp_path / "task")
    source = EndpointModelSource.model_validate({"url": server.url, "model": "tiny", "echo": True})
    step = Evaluate(
        data="data", baselines=(), tasks=({"kind": "lm_eval", "path": str(file), "data": str(file.parent)},)
    )
    found = made(store, step, {"data": texts, "model": make_base(store, source, tmp_path)})
    assert found.read_json("metrics.json")["measures"]["base"]["sums.acc"]["value"] == 4 / 6
    assert pl.read_parquet(found.path("tasks.parquet")).height == 6
