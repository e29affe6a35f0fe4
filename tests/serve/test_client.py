"""The official Python client, unchanged: chats, streams, tools, JSON, log-probabilities, embeddings, errors."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest

from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.models.generate import generate
from luthier.models.load import load_model
from serving import Served

ASKED: list[Any] = [{"role": "user", "content": "Where is the parcel?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"enum": ["billing", "delivery"]},
        "number": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
    },
    "required": ["subject", "number", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"enum": ["a", "b"]}},
}
NO_SCHEMA = {"name": "x", "schema": {"type": "nothing"}}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks an order up.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"$ref": "#/$defs/order"}},
            "required": ["order"],
            "additionalProperties": False,
            "$defs": {"order": {"type": "integer", "minimum": 0, "maximum": 999}},
        },
    },
}


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served.client()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["tiny", "caller", "chooser", "encoder"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("huge")


def test_an_answer_is_the_one_that_evaluation_gives(client: openai.OpenAI, tiny: Artifact) -> None:
    loaded = load_model(tiny, "float32")
    text = ChatTokenizer.load(loaded.folder)
    wanted = generate(loaded, [text.prompt([Message(role="user", content="Where is the parcel?")])], 12, text.end_ids)[
        0
    ]
    said = client.chat.completions.create(model="tiny", messages=ASKED, max_completion_tokens=12)
    assert said.choices[0].message.content == text.decode(wanted, special=False)
    assert said.choices[0].finish_reason == "length"
    assert said.usage is not None
    assert (said.usage.completion_tokens, said.usage.total_tokens) == (12, said.usage.prompt_tokens + 12)
    assert said.id.startswith("chatcmpl-")
    assert said.system_fingerprint == f"lt_{tiny.digest[:16]}"


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=12, seed=5, temperature=1.0, n=3)
    stream = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=12, seed=5, temperature=1.0, n=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    texts, ends, usage, roles = ["", "", ""], {}, None, []
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1, "each answer draws for itself"
    assert sorted(roles) == [0, 1, 2]
    assert ends == {0: "length", 1: "length", 2: "length"}
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 36
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_without_a_wish_no_usage_is_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=3, stream=True)
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in stream)


def test_the_helper_for_streams_understands(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}}
    asked: Any = {"model": "tiny", "messages": ASKED, "response_format": form, "max_tokens": 120}
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert json.loads(final.choices[0].message.content or "")


def test_the_asynchronous_client(served: Served) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=served.listening.url, api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": f"{n}"}], max_tokens=6
                )
                for n in range(5)
            ]
            return [one.choices[0].message.content for one in await asyncio.gather(*asked)]

    together = asyncio.run(ask())
    with served.client() as client:
        alone = [
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": f"{n}"}], max_tokens=6)
            for n in range(5)
        ]
    assert together == [one.choices[0].message.content for one in alone]


def test_stop_texts_end_an_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=20, temperature=1.0, seed=1)
    text = whole.choices[0].message.content or ""
    stop = text[5:8]
    for stream in (False, True):
        asked: Any = {
            "model": "tiny",
            "messages": ASKED,
            "max_tokens": 20,
            "temperature": 1.0,
            "seed": 1,
            "stop": [stop, "@@"],
        }
        if stream:
            chunks = list(client.chat.completions.create(**asked, stream=True))
            said = "".join(one.choices[0].delta.content or "" for one in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            answer = client.chat.completions.create(**asked).choices[0]
            said, finish = answer.message.content or "", answer.finish_reason
        assert said == text[: text.index(stop)]
        assert finish == "stop"


def test_log_probabilities(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=6, logprobs=True, top_logprobs=3, temperature=1.0, seed=2
    )
    told = said.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 6
    joined = b"".join(bytes(one.bytes or ()) for one in told.content)
    assert joined.decode("utf-8", "replace") == said.choices[0].message.content
    for one in told.content:
        assert one.logprob < 0
        assert len(one.top_logprobs) == 3
        assert sorted((other.logprob for other in one.top_logprobs), reverse=True) == [
            o.logprob for o in one.top_logprobs
        ]
        assert one.logprob <= one.top_logprobs[0].logprob
    plain = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=6, logprobs=True)
    assert plain.choices[0].logprobs is not None
    assert all(not one.top_logprobs for one in plain.choices[0].logprobs.content or ())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_keeps_a_schema(client: openai.OpenAI, stream: bool) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}}
    asked: Any = {
        "model": "tiny",
        "messages": ASKED,
        "response_format": form,
        "temperature": 1.0,
        "seed": 3,
        "max_tokens": 120,
    }
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        text, finish = (
            "".join(one.choices[0].delta.content or "" for one in chunks),
            chunks[-1].choices[0].finish_reason,
        )
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        text, finish = choice.message.content or "", choice.finish_reason
    jsonschema.validate(json.loads(text), SCHEMA)
    assert finish == "stop"


def test_any_json_object(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=ASKED, response_format={"type": "json_object"}, temperature=1.0, seed=3, max_tokens=300
    )
    if said.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(said.choices[0].message.content or ""), dict)
    else:
        assert (said.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    other = {"type": "function", "function": {"name": "wait"}}
    asked: Any = {
        "model": "caller", "messages": ASKED, "tools": [TOOL, other], "tool_choice": choice, "temperature": 1.0,
        "seed": 8, "max_tokens": 100, "parallel_tool_calls": False,
    }  # fmt: skip
    if stream:
        calls, text, finish = [], "", None
        for chunk in client.chat.completions.create(**asked, stream=True):
            calls += chunk.choices[0].delta.tool_calls or []
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    else:
        found = client.chat.completions.create(**asked).choices[0]
        calls, text, finish = list(found.message.tool_calls or ()), found.message.content or "", found.finish_reason
    assert (len(calls), text, finish) == (1, "", "tool_calls")
    function = calls[0].function
    assert calls[0].id.startswith("call_")
    assert function.name in (["look_up", "wait"] if choice == "required" else ["look_up"])
    given = json.loads(function.arguments)
    if function.name == "look_up":
        jsonschema.validate(given, TOOL["function"]["parameters"])


def test_a_conversation_goes_on_after_a_call(client: openai.OpenAI) -> None:
    call: Any = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 7}'}}
    turns: list[Any] = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "on its way"},
    ]
    said = client.chat.completions.create(model="caller", messages=turns, tools=[TOOL], max_tokens=8)
    assert said.choices[0].finish_reason in ("length", "stop")


def test_several_calls_of_several_functions(client: openai.OpenAI) -> None:
    found = set()
    for seed in range(12):
        said = client.chat.completions.create(
            model="caller",
            messages=ASKED,
            tools=[TOOL],
            tool_choice="required",
            temperature=1.0,
            seed=seed,
            max_tokens=150,
        )
        calls = said.choices[0].message.tool_calls or []
        found.add(len(calls))
        assert len({call.id for call in calls}) == len(calls)
    assert max(found) >= 1


def test_a_model_that_cannot_call_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no place for calls") as caught:
        client.chat.completions.create(model="tiny", messages=ASKED, tools=[TOOL])
    assert caught.value.param == "tools"
    client.chat.completions.create(model="tiny", messages=ASKED, tools=[TOOL], tool_choice="none", max_tokens=2)


def test_completions_of_texts_and_tokens(client: openai.OpenAI, tiny: Artifact) -> None:
    ids = ChatTokenizer.load(tiny.folder).tokenizer("My invoice", add_special_tokens=False)["input_ids"]
    several = client.completions.create(model="tiny", prompt=["My invoice", "The"], n=2, max_tokens=5)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text
    assert several.choices[2].text == several.choices[3].text
    assert client.completions.create(model="tiny", prompt=ids, max_tokens=5).choices[0].text == several.choices[0].text
    told = client.completions.create(model="tiny", prompt="My invoice", max_tokens=5, logprobs=2).choices[0].logprobs
    assert told is not None
    assert [len(one) <= 2 for one in told.top_logprobs or ()] == [True] * 5
    streamed = client.completions.create(model="tiny", prompt=["My invoice", "The"], n=2, max_tokens=5, stream=True)
    texts = ["", "", "", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in several.choices]


def test_an_empty_text_is_continued_alone_and_among_others(client: openai.OpenAI) -> None:
    alone = client.completions.create(model="tiny", prompt="", max_tokens=5).choices[0].text
    assert client.completions.create(model="tiny", prompt=["The", ""], max_tokens=5).choices[1].text == alone
    with pytest.raises(openai.BadRequestError, match="a list of tokens is empty"):
        client.completions.create(model="tiny", prompt=[[]], max_tokens=5)


def test_embeddings(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(
        model="encoder", input=["My invoice", "The parcel", "My invoice"], encoding_format="float"
    )
    packed = client.embeddings.create(model="encoder", input="My invoice")
    assert np.allclose(plain.data[0].embedding, packed.data[0].embedding)
    assert plain.data[0].embedding == plain.data[2].embedding
    assert math.isclose(float(np.linalg.norm(plain.data[1].embedding)), 1.0, rel_tol=1e-5)
    assert plain.usage.prompt_tokens > 0
    with pytest.raises(openai.BadRequestError, match="32 numbers"):
        client.embeddings.create(model="encoder", input="x", dimensions=8)
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings only"):
        client.chat.completions.create(model="encoder", messages=ASKED)


def test_a_class_is_chosen_with_its_probability(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="chooser", messages=ASKED, logprobs=True, top_logprobs=20, n=2)
    choice = said.choices[0]
    scores: dict[str, float] = choice.scores  # type: ignore[attr-defined]  # beside OpenAI's fields
    assert choice.message.content == max(scores, key=scores.__getitem__) == said.choices[1].message.content
    assert set(scores) == {"account", "billing", "delivery"}
    assert math.isclose(sum(scores.values()), 1.0, rel_tol=1e-9)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    top = {one.token: one.logprob for one in choice.logprobs.content[0].top_logprobs}
    assert {label: math.exp(value) for label, value in top.items()} == pytest.approx(scores)
    streamed = list(client.chat.completions.create(model="chooser", messages=ASKED, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in streamed) == choice.message.content
    with pytest.raises(openai.BadRequestError, match="chooses one of a few classes"):
        client.chat.completions.create(model="chooser", messages=ASKED, response_format={"type": "json_object"})


SAMPLED: dict[str, Any] = {
    "temperature": 0.7, "top_p": 0.5, "seed": 3, "stop": ["x"], "max_completion_tokens": 1, "presence_penalty": 0.5,
    "frequency_penalty": -1, "logit_bias": {"5": 10}, "extra_body": {"top_k": 5, "repetition_penalty": 1.2},
}  # fmt: skip


def test_a_classifier_takes_settings_of_sampling_and_says_that_they_change_nothing(
    client: openai.OpenAI, served: Served
) -> None:
    plain = client.chat.completions.create(model="chooser", messages=ASKED)
    assert plain.model_extra == {}
    raw = client.chat.completions.with_raw_response.create(model="chooser", messages=ASKED, **SAMPLED)
    said = raw.parse()
    assert said.choices[0].message.content == plain.choices[0].message.content
    assert said.choices[0].scores == plain.choices[0].scores  # type: ignore[attr-defined]  # beside OpenAI's fields
    names = {name for name in SAMPLED if name != "extra_body"} | {"top_k", "repetition_penalty"}
    warnings: list[dict[str, str]] = said.warnings  # type: ignore[attr-defined]
    assert {one["param"] for one in warnings} == names
    assert warnings[0]["message"] == "temperature changes nothing: this model chooses the likeliest of its classes"
    assert set(raw.headers["X-Unused-Parameters"].split(", ")) == names
    streamed = list(client.chat.completions.create(model="chooser", messages=ASKED, temperature=1, stream=True))
    assert all(one.warnings[0]["param"] == "temperature" for one in streamed)  # type: ignore[attr-defined]
    for name in ("top_k", "repetition_penalty", "min_p", "presence_penalty"):  # a model that writes cannot keep them
        body = {"model": "tiny", "messages": ASKED, name: 0.5 if name != "top_k" else 5}
        response = served.post("/v1/chat/completions", body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"functions": []}, "functions"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 100}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": NO_SCHEMA}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "messages"),
        ({"temperatur": 1}, "temperatur"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
        ({"service_tier": "flex"}, "service_tier"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(served: Served, wrong: dict[str, Any], param: str) -> None:
    response = served.post("/v1/chat/completions", {"model": "tiny", "messages": ASKED, **wrong})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_what_asks_for_nothing_is_taken(served: Served) -> None:
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "stream": False,
        "stop": None, "tools": [], "service_tier": "auto", "user": "u", "metadata": {"a": "b"}, "store": False,
        "response_format": {"type": "text"}, "modalities": ["text"], "functions": None, "seed": -1, "top_k": -1,
    }  # fmt: skip
    response = served.post("/v1/chat/completions", {"model": "tiny", "messages": ASKED, "max_tokens": 2, **neutral})
    assert response.status_code == 200, response.text


def test_unknown_models_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=ASKED)
    assert caught.value.code == "model_not_found"


def test_parts_and_names_and_developers(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model="tiny", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}],
        max_tokens=5,
    )  # fmt: skip
    parts = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]},
        ],
        max_tokens=5,
    )
    assert plain.choices[0].message.content == parts.choices[0].message.content


def test_every_request_leaves_a_trace(served: Served, client: openai.OpenAI) -> None:
    served.heard.traces.clear()
    said = client.chat.completions.create(
        model="tiny",
        messages=ASKED,
        max_tokens=3,
        user="anna",
        metadata={"page": "help"},
        store=False,
        temperature=0.5,
        seed=1,  # with another, the end may be drawn
    )
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ASKED, n=99)
    list(client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=3, stream=True))
    first, second, third = served.heard.wait(3)
    assert first.id == said.id
    assert (first.model, first.user, first.meta, first.consent) == ("tiny", "anna", {"page": "help"}, False)
    assert first.messages == (Message(role="user", content="Where is the parcel?"),)
    assert first.answer == Message(role="assistant", content=said.choices[0].message.content or "")
    assert first.parameters == {"temperature": 0.5, "max_tokens": 3, "seed": 1}
    assert (first.finish_reason, first.status, first.completion_tokens) == ("length", 200, 3)
    assert first.first_token_s is not None
    assert 0 < first.first_token_s <= first.latency_s
    assert (second.model, second.status, second.finish_reason, second.answer) == ("tiny", 400, "error", None)
    assert third.status == 200
    assert third.completion_tokens == 3
