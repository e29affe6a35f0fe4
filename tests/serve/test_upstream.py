"""A model that is served elsewhere, behind this gateway: what comes back is what that server says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from luthier.chat.messages import Message
from luthier.chat.prompt import PromptPrefix
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.serve.upstream import UpstreamModel
from serving import Served, serving

ASKED: list[Any] = [{"role": "user", "content": "Where is the parcel?"}]
KEY = "sk-never-shown"


def elsewhere(url: str, model: str = "tiny", before: PromptPrefix | None = None, **more: Any) -> UpstreamModel:
    settings = EndpointModelSource.model_validate({"url": url, "model": model, "timeout_s": 20, **more})
    return UpstreamModel(settings, before or PromptPrefix(), 4, 4, "d" * 32)


@pytest.fixture(scope="module")
def passed(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway before the other one."""
    url = served.listening.url
    system = PromptPrefix(instruction="Be brief.")
    models = {
        "far": lambda: elsewhere(url, key_env="FAR_KEY"),
        "far-caller": lambda: elsewhere(url, "caller"),
        "prompted": lambda: elsewhere(url, before=system),
        "absent": lambda: elsewhere(url, "absent"),
        "down": lambda: elsewhere("http://127.0.0.1:9/v1"),
        "keyless": lambda: elsewhere(url, key_env="UNSET_KEY"),
        "still": lambda: elsewhere(url, temperature=False),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAR_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        with serving(models, tmp_path_factory.mktemp("passed") / "ledger.db") as found:
            yield found


@pytest.mark.parametrize("stream", [False, True])
def test_answers_pass_through(served: Served, passed: Served, stream: bool) -> None:
    asked: Any = {
        "messages": ASKED,
        "max_tokens": 8,
        "temperature": 1.0,
        "seed": 4,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
    }

    def say(server: Served, model: str) -> Any:
        with server.client() as client:
            if not stream:
                found = client.chat.completions.create(model=model, **asked)
                assert found.usage is not None
                counts = (found.usage.prompt_tokens, found.usage.completion_tokens)
                return [(one.message.content, one.finish_reason, one.logprobs) for one in found.choices], counts
            texts = ["", ""]
            for chunk in client.chat.completions.create(model=model, **asked, stream=True):
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
            return texts

    assert say(passed, "far") == say(served, "tiny")


def test_calls_and_completions_pass_through(served: Served, passed: Served) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "wait", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    }
    with passed.client() as client:
        said = client.chat.completions.create(
            model="far-caller",
            messages=ASKED,
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=80,
        )
        assert said.choices[0].finish_reason == "tool_calls"
        (call,) = said.choices[0].message.tool_calls or ()
        assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "wait", {})
        far = client.completions.create(model="far", prompt="My invoice", max_tokens=5).choices[0].text
    with served.client() as client:
        assert far == client.completions.create(model="tiny", prompt="My invoice", max_tokens=5).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_a_plain_text_pass_through(served: Served, passed: Served, stream: bool) -> None:
    def told(server: Served, model: str, **more: Any) -> Any:
        asked = {"model": model, "prompt": "My invoice", "max_tokens": 5, "stream": stream, **more}
        said = server.post("/v1/completions", asked).text.removesuffix("data: [DONE]\n\n")
        found = [json.loads(one.removeprefix("data: ")) for one in said.split("\n\n") if one]
        columns = [choice["logprobs"] or {} for one in found for choice in one["choices"]]
        return {
            name: [one for each in columns for one in each.get(name, ())]
            for name in ("tokens", "token_logprobs", "top_logprobs")
        }

    for more in ({"logprobs": 2}, {"logprobs": 0}, {"logprobs": 2, "return_tokens_as_token_ids": True}):
        near = told(served, "tiny", **more)
        assert len(near["tokens"]) == 5
        assert told(passed, "far", **more) == near


def test_a_chosen_prompt_stands_in_front(served: Served, passed: Served) -> None:
    served.heard.traces.clear()
    passed.client().chat.completions.create(model="prompted", messages=ASKED, max_tokens=2)
    assert served.heard.wait()[-1].messages[0] == Message(role="system", content="Be brief.")
    assert passed.heard.wait()[-1].messages[0].role == "user", "a trace says what was asked here"


def test_what_goes_wrong_there_is_said_here(passed: Served) -> None:
    with passed.client() as client:
        with pytest.raises(openai.NotFoundError, match="'absent' is not served here"):
            client.chat.completions.create(model="absent", messages=ASKED)
        with pytest.raises(openai.APIStatusError, match="gave no answer") as caught:
            client.chat.completions.create(model="down", messages=ASKED)
        assert caught.value.status_code == 502
        with pytest.raises(openai.APIStatusError, match="UNSET_KEY is not set"):
            client.chat.completions.create(model="keyless", messages=ASKED)
        with pytest.raises(openai.BadRequestError, match="takes no temperature"):
            client.chat.completions.create(model="still", messages=ASKED, temperature=1.0)
        client.chat.completions.create(model="still", messages=ASKED, max_tokens=2)
    assert all(KEY not in trace.model_dump_json() for trace in passed.heard.traces)
