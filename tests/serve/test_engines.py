"""What each engine does beside what all do: neighbours, temperatures of probabilities, agreement with evaluation."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shutil
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import Message, answer_text_by_label, prompt_of
from luthier.chat.tokenizer import ChatTokenizer
from luthier.commands.serve import parse_class_router
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, MissingExtra, ModelError
from luthier.eval.local_model import InferenceSettings, LocalEvalModel
from luthier.eval.task import HeldOutTask
from luthier.serve.engine import ModelRunner
from luthier.serve.engines.label import LabelEngine
from luthier.serve.engines.llama_cpp import LlamaCppEngine
from luthier.serve.engines.torch import TorchEngine
from luthier.serve.engines.vllm import VllmEngine
from luthier.serve.label_engine import DynamicBatcher, fit_temperature, softmax_label_scores
from luthier.serve.openai.pipeline import ClassRouter, ClassRouterConfig
from luthier.serve.openai.protocol import APIError, ModelUnavailableError, ServerBusyError
from luthier.serve.request import AggregatedOutput, EngineRequest, OutputChunk
from serving import Served, serving

FAKE = Path(__file__).parent.parent / "llama_server.py"
ASKED: list[Any] = [{"role": "user", "content": "Where is the parcel?"}]


def whole(model: ModelRunner, query: EngineRequest) -> AggregatedOutput:
    """One answer."""

    async def run(pieces: AsyncGenerator[OutputChunk, None]) -> AggregatedOutput:
        found = AggregatedOutput()
        async for piece in pieces:
            found.add(piece)
        return found

    return asyncio.run(run(model.answer(query)))


def test_a_class_is_the_one_that_evaluation_names(chooser: Artifact) -> None:
    examples = read_examples(chooser.parent("data"), "validation")
    said = answer_text_by_label(["account", "billing", "delivery"], read_examples(chooser.parent("data"), "train"))
    question = InferenceSettings(normalize="sum", max_new_tokens=8, dtype="float32", likelihood=False)
    voice = LocalEvalModel.of(chooser, question, name="m", title="m")
    replies = voice.answer(
        examples,
        HeldOutTask(kind="label", examples=examples, options=said, split="validation", available=len(examples)),
    )
    model = LabelEngine(dtype="float32").open(chooser)
    for example, reply in zip(examples, replies, strict=True):
        found = whole(model, EngineRequest(messages=prompt_of(example)))
        assert found.text == said[reply.prediction]
        assert found.scores is not None
        assert reply.scores is not None
        assert max(found.scores, key=lambda label: found.scores[label]) == reply.prediction  # type: ignore[index]
        for label in said:  # the same log-odds, but for the one temperature
            wanted = (reply.scores[label] - reply.scores[reply.prediction]) / model.temperature  # type: ignore[attr-defined]
            assert math.log(found.scores[label] / found.scores[reply.prediction]) == pytest.approx(wanted, abs=1e-4)
    asyncio.run(model.close())


def test_a_temperature_makes_probabilities_true() -> None:
    chance = random.Random(0)
    rows, truths = [], []
    for _ in range(4000):
        honest = {label: chance.gauss(0, 1.5) for label in "abc"}
        shares = softmax_label_scores(honest, 1.0)
        truths.append(chance.choices(list(shares), list(shares.values()))[0])
        rows.append({label: 3.0 * score - 7 for label, score in honest.items()})  # three times too sure of itself
    found = fit_temperature(rows, truths)
    assert found == pytest.approx(3.0, rel=0.06)
    assert fit_temperature(rows[:19], truths[:19]) is None
    assert fit_temperature(rows, ["z"] * len(rows)) is None
    assert sum(softmax_label_scores({"a": -1e6, "b": 0.0}, 1.0).values()) == 1.0


def test_a_gathering_lets_nobody_pay_for_a_stranger() -> None:
    calls: list[int] = []

    def work(asked: Any) -> Any:
        calls.append(len(asked))
        if "bad" in asked:
            raise ValueError("no")
        return [word.upper() for word in asked]

    async def run() -> None:
        gathering: DynamicBatcher[str, str] = DynamicBatcher(work, at_once=8, waiting=16)
        found = await asyncio.gather(*(gathering.ask(word) for word in ["a", "bad", "b"]), return_exceptions=True)
        assert (found[0], found[2]) == ("A", "B")
        assert isinstance(found[1], ModelUnavailableError)
        await asyncio.to_thread(gathering.close)
        with pytest.raises(ModelUnavailableError):
            await gathering.ask("c")

    asyncio.run(run())
    assert max(calls) > 1, "what comes together is done together"


def test_a_gathering_refuses_when_too_many_wait() -> None:
    import threading

    free = threading.Event()

    def work(asked: Any) -> Any:
        free.wait(10)
        return asked

    async def run() -> None:
        gathering: DynamicBatcher[int, int] = DynamicBatcher(work, at_once=1, waiting=2)
        asking = [asyncio.ensure_future(gathering.ask(number)) for number in range(1)]
        await asyncio.sleep(0.1)
        asking += [asyncio.ensure_future(gathering.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0.05)
        with pytest.raises(ServerBusyError):
            await gathering.ask(3)
        free.set()
        assert await asyncio.gather(*asking) == [0, 1, 2]
        await asyncio.to_thread(gathering.close)

    asyncio.run(run())


@pytest.fixture(scope="module")
def llama(tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway before something that speaks as llama.cpp's server does."""
    engine = LlamaCppEngine(program=str(FAKE), context=200, timeout_s=30)
    with serving({"tiny": lambda: engine.open(tiny)}, tmp_path_factory.mktemp("llama") / "ledger.db") as found:
        yield found


def test_llama_cpp_gets_ids_and_gives_ids(llama: Served, tiny: Artifact) -> None:
    text = ChatTokenizer.load(tiny.folder)
    ids = text.prompt([Message(role="user", content="Where is the parcel?")])
    client = llama.client()
    said = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=6, logprobs=True, top_logprobs=2)
    assert said.choices[0].message.content == text.decode(ids[::-1][:6], special=False)
    assert said.choices[0].finish_reason == "length"
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(ids), 6)
    assert said.usage.prompt_tokens_details is not None
    assert said.usage.prompt_tokens_details.cached_tokens == 3
    assert said.choices[0].logprobs is not None
    assert all(one.logprob == -0.5 for one in said.choices[0].logprobs.content or ())
    whole_text = text.decode(ids[::-1], special=False)
    streamed = list(client.chat.completions.create(model="tiny", messages=ASKED, stream=True, n=2))
    for answer in (0, 1):
        own = [choice for chunk in streamed for choice in chunk.choices if choice.index == answer]
        assert "".join(one.delta.content or "" for one in own) == whole_text
        assert own[-1].finish_reason == "stop"
    stop = whole_text[6:9]
    ended = client.chat.completions.create(model="tiny", messages=ASKED, stop=stop).choices[0]
    assert (ended.message.content, ended.finish_reason) == (whole_text[: whole_text.index(stop)], "stop")
    with pytest.raises(openai.BadRequestError, match="room"):
        client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=500)


def test_llama_cpp_shares_out_what_the_temperature_left_and_tells_the_bytes_of_parts_of_letters(tiny: Artifact) -> None:
    text = ChatTokenizer.load(tiny.folder)
    ids, asked = text.tokenizer.encode("é 😀", add_special_tokens=False), list[Any]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        about = [{"id": one, "logprob": -0.5, "top_logprobs": [{"id": one, "logprob": -0.5}]} for one in ids]
        events = [{"tokens": ids, "completion_probabilities": about}, {"tokens": [], "stop": True, "stop_type": "eos"}]
        return httpx.Response(200, text="".join(f"data: {json.dumps(one)}\n\n" for one in events))

    model: Any = LlamaCppEngine(url="http://there").open(tiny)
    model._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    said = whole(model, EngineRequest(text="My", temperature=2.0, top_p=0.5, logprobs=True, top_logprobs=1))
    assert said.text == "é 😀"
    assert any(b"\xf0" in one.chosen.raw and "\ufffd" in one.chosen.text for one in said.tokens)
    assert b"".join(one.chosen.raw for one in said.tokens) == "é 😀".encode()
    assert b"".join(one.top[0].raw for one in said.tokens) == "é 😀".encode()
    assert asked[0]["samplers"] == ["temperature", "top_p"], "other tokens have the share before the temperature"


def test_llama_cpp_ends_with_its_model(tiny: Artifact, tmp_path: Path) -> None:
    model = LlamaCppEngine(program=str(FAKE), timeout_s=30).open(tiny)
    root, folder = model._beside.root, model._beside.folder  # type: ignore[attr-defined]
    assert httpx.get(f"{root}/health", trust_env=False).status_code == 200
    asyncio.run(model.close())
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{root}/health", trust_env=False)


def test_programs_that_are_not_there_or_do_not_start(tiny: Artifact, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="'no-such-program' is not installed"):
        LlamaCppEngine(program="no-such-program").open(tiny)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cannot map the file'\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ModelError, match="did not begin to answer: cannot map the file"):
        LlamaCppEngine(program=str(broken), timeout_s=10).open(tiny)
    with pytest.raises((MissingExtra, ModelError)):
        VllmEngine(program="no-such-vllm").open(tiny)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="wants a GPU"):
            VllmEngine(program=str(broken)).open(tiny)


def test_a_pipeline_asks_the_model_of_the_class(served: Served, tmp_path: Path) -> None:
    ways = ClassRouterConfig(by="chooser", to={"billing": "tiny", "delivery": "tiny"}, other="caller")
    classes = set()
    for words in ("Where is the parcel?", "My invoice is wrong", "My password does not work"):
        asked = EngineRequest(messages=(Message(role="user", content=words),), max_tokens=5)

        async def ask(asked: EngineRequest = asked) -> tuple[AggregatedOutput, AggregatedOutput, AggregatedOutput]:
            return (
                await _all(ClassRouter(served.gateway.fleet, ways), asked),
                await _held(served, "chooser", EngineRequest(messages=asked.messages)),
                await _held(served, "tiny", asked),
            )

        found, chosen, tiny = served.run(ask())
        assert found.scores == chosen.scores
        label = max(found.scores, key=found.scores.__getitem__)
        classes.add(label)
        other = served.run(_held(served, "caller", asked))
        assert found.text == (tiny.text if label in ways.to else other.text)
    strict = ClassRouterConfig(by="chooser", to={})
    with pytest.raises(APIError, match="no model is named"):
        served.run(_all(ClassRouter(served.gateway.fleet, strict), asked))
    with pytest.raises(APIError, match="cannot lead"):
        served.run(_all(ClassRouter(served.gateway.fleet, ClassRouterConfig(by="tiny", to={})), asked))
    assert ways.models == ["chooser", "tiny", "caller"]
    assert parse_class_router("help={by: a, to: {x: b}}") == ("help", ClassRouterConfig(by="a", to={"x": "b"}))
    for wrong in ("help", "help={by: a}", "help={by: a, to: {}, others: b}", "help={"):
        with pytest.raises(InputError):
            parse_class_router(wrong)


async def _all(model: ModelRunner, query: EngineRequest) -> AggregatedOutput:
    found = AggregatedOutput()
    async for piece in model.answer(query):
        found.add(piece)
    return found


async def _held(served: Served, name: str, query: EngineRequest) -> AggregatedOutput:
    async with served.gateway.fleet.using(name) as model:
        return await _all(model, query)


@pytest.fixture(scope="module")
def real_llama() -> str:
    """llama.cpp's own `llama-server`."""
    found = shutil.which(os.environ.get("LLAMA_SERVER", "llama-server"))
    if found is None:
        pytest.skip("llama.cpp's llama-server is not installed (LLAMA_SERVER names it where it is not on the path)")
    return found


@pytest.mark.slow
@pytest.mark.model
def test_llama_cpp_itself_says_what_our_engine_says(real_llama: str, smollm2: Artifact, tmp_path: Path) -> None:
    """f16 weights against fp32: the same greedy words, and nearly the same log-probabilities."""
    engine = LlamaCppEngine(program=real_llama, max_num_seqs=4, context=512, threads=1, timeout_s=300)
    asked: list[Any] = [{"role": "user", "content": "Name three fruits."}]
    schema = {"type": "object", "properties": {"fruit": {"enum": ["pear", "plum"]}}, "required": ["fruit"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    own, theirs = TorchEngine(dtype="float32").open(smollm2), engine.open(smollm2)
    with serving({"ours": own, "theirs": theirs}, tmp_path / "ledger.db") as found:
        client = found.client()
        told = [
            client.chat.completions.create(model=name, messages=asked, max_tokens=12, logprobs=True, top_logprobs=3)
            for name in ("ours", "theirs")
        ]
        mine, its = (one.choices[0] for one in told)
        assert mine.message.content == its.message.content
        assert told[0].usage is not None
        assert told[1].usage is not None
        assert told[0].usage.prompt_tokens == told[1].usage.prompt_tokens
        assert mine.logprobs is not None
        assert its.logprobs is not None
        for a, b in zip(mine.logprobs.content or (), its.logprobs.content or (), strict=True):
            assert (a.token, a.top_logprobs[0].token) == (b.token, b.top_logprobs[0].token)
            assert b.logprob == pytest.approx(a.logprob, abs=0.05)
        said = client.chat.completions.create(model="theirs", messages=asked, max_tokens=24, response_format=form)
        assert json.loads(said.choices[0].message.content or "")["fruit"] in {"pear", "plum"}
        whole_text = mine.message.content or ""
        stop = whole_text[8:12]
        ended = client.chat.completions.create(model="theirs", messages=asked, max_tokens=12, stop=stop).choices[0]
        assert (ended.message.content, ended.finish_reason) == (whole_text[: whole_text.index(stop)], "stop")
        sampled = {"model": "theirs", "messages": asked, "max_tokens": 8, "temperature": 1, "seed": 5}
        drawn = [client.chat.completions.create(**sampled).choices[0].message.content for _ in range(2)]
        assert drawn[0] == drawn[1], "the same seed says the same"
        both = client.chat.completions.create(**sampled, n=2).choices
        assert both[0].message.content != both[1].message.content
        pieces = list(
            client.chat.completions.create(
                model="theirs", messages=asked, max_tokens=12, stream=True, stream_options={"include_usage": True}
            )
        )
        streamed = "".join(choice.delta.content or "" for one in pieces for choice in one.choices)
        assert streamed == whole_text
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens == told[1].usage.completion_tokens
