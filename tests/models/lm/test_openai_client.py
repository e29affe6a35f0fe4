"""Speaking with an OpenAI-compatible endpoint: a real server on the loopback, and everything that can go wrong."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from endpoint import Body, Reply, Server, completion, serving
from luthier.chat.messages import Message
from luthier.core.errors import ModelError, RecipeError
from luthier.core.store import Store
from luthier.models.lm import openai_client
from luthier.models.lm.base import (
    NO_LABEL,
    ChoiceRequest,
    GenerateRequest,
    LoglikelihoodRequest,
    RollingLoglikelihoodRequest,
)
from luthier.models.lm.openai_client import EndpointLM, match_option, score_options_by_first_token
from luthier.models.load import is_endpoint, load_model
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.recipe.schema import Recipe
from models.making import make_base

KEY = "sk-secret-7f3a"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(openai_client, "FIRST_WAIT_S", 0.01)
    with serving(lambda body: f"heard {body['messages'][-1]['content']}") as found:
        yield found


def client(server: Server, kept: Path, **settings: object) -> EndpointLM:
    told = {"url": server.url, "model": "tiny", "key_env": "MY_KEY", **settings}
    return EndpointLM(EndpointModelSource.model_validate(told), kept)


def ask(*words: str, limit: int = 5, **settings: Any) -> list[GenerateRequest]:
    prompts = [(Message(role="user", content=word),) for word in words]
    return [GenerateRequest(prompt=prompt, max_tokens=limit, **settings) for prompt in prompts]


def among(*words: str, options: tuple[str, ...] = ("billing", "delivery")) -> list[ChoiceRequest]:
    return [ChoiceRequest(prompt=(Message(role="user", content=word),), options=options) for word in words]


def test_the_official_client_reads_this_server_alike(server: Server, tmp_path: Path) -> None:
    with openai.OpenAI(base_url=server.url, api_key=KEY) as official:
        theirs = official.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}], max_tokens=5, temperature=0.0
        )
    ours = client(server, tmp_path).generate(ask("a"))[0]
    assert ours.text == theirs.choices[0].message.content == "heard a"
    assert theirs.usage is not None
    assert ours.tokens == theirs.usage.completion_tokens == 2
    assert ours.finished
    assert server.asked[0] == server.asked[1], "the same request goes out"
    assert server.keys == [f"Bearer {KEY}"] * 2


def test_each_request_is_sent_once_and_its_answer_kept(server: Server, tmp_path: Path) -> None:
    first = client(server, tmp_path).generate(ask("a", "b", "a"))
    assert [one.text for one in first] == ["heard a", "heard b", "heard a"]
    assert len(server.asked) == 2
    assert client(server, tmp_path).generate(ask("b", "c"))[0] == first[1]
    assert [body["messages"][0]["content"] for body in server.asked[2:]] == ["c"]
    client(server, tmp_path).generate(ask("a", limit=6))
    assert len(server.asked) == 4, "another limit is another request"
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_busy_and_broken_servers_are_asked_again(server: Server, tmp_path: Path) -> None:
    refusals = iter([Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0"}), Reply(b"oh", 503)])
    server.answer = lambda body: next(refusals, "at last")
    assert client(server, tmp_path).generate(ask("a"))[0].text == "at last"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "says", "tries"),
    [
        (Reply({"error": {"message": "overloaded"}}, 500), "no answer after 3 tries: 500 overloaded", 3),
        (Reply({"error": {"message": "too fast"}}, 429), "no answer after 3 tries: 429 too fast", 3),
        (Reply({"error": {"message": f"wrong key {KEY}"}}, 401), "answered 401: wrong key …", 1),
        (Reply({"error": {"message": "no such model"}}, 404), "answered 404: no such model", 1),
        (Reply(b"<html>welcome</html>"), "answered what is no JSON", 1),
        (Reply({"choices": []}), "answered in another form", 1),
        (Reply({"choices": [{"message": None}]}), "answered in another form", 1),
        (Reply([1, 2]), "answered in another form", 1),
        (Reply("x", wait_s=0.6), "ReadTimeout", 3),
    ],
    ids=["500", "429", "401", "404", "html", "no choice", "no message", "a list", "timeout"],
)
def test_what_goes_wrong_is_said_and_what_was_answered_is_kept(
    server: Server, tmp_path: Path, reply: Reply, says: str, tries: int
) -> None:
    client(server, tmp_path).generate(ask("before"))
    server.answer = lambda body: reply
    with pytest.raises(ModelError) as caught:
        client(server, tmp_path, retries=2, timeout_s=0.2).generate(ask("before", "after"))
    assert says in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.hint
    assert len(server.asked) == 1 + tries
    assert len(list(tmp_path.iterdir())) == 1
    server.answer = lambda body: "well again"
    assert [one.text for one in client(server, tmp_path).generate(ask("before", "after"))] == [
        "heard before",
        "well again",
    ]


def test_nobody_there_and_no_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = EndpointModelSource(url="http://127.0.0.1:9/v1", model="tiny", retries=0)
    with pytest.raises(ModelError, match="ConnectError"):
        EndpointLM(gone, tmp_path).generate(ask("a"))
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ModelError, match="MY_KEY is not set"):
        client(server, tmp_path).generate(ask("a"))
    assert server.asked == []


@pytest.mark.parametrize(
    ("field", "value"), [("key_env", "sk-abc"), ("url", "https://me:pw@host/v1"), ("url", "ftp://host"), ("model", "")]
)
def test_a_key_or_a_password_is_refused_in_a_recipe(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        EndpointModelSource.model_validate({"url": "http://host/v1", "model": "m", field: value})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (f"url: 'https://host/v1', key_env: {KEY}", "never the key itself"),
        (f"url: 'https://me:{KEY}@host/v1'", "without a password"),
    ],
)
def test_a_secret_written_into_a_recipe_is_not_repeated(tmp_path: Path, wrong: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"luthier: 1\nmodel: {{kind: endpoint, model: m, {wrong}}}\n"
        "steps: {tune: {kind: tune, data: data, technique: prompt_search}}\n"
    )
    with pytest.raises(RecipeError, match=says) as caught:
        Recipe.load(path)
    assert KEY not in str(caught.value)


def test_labels_by_text(server: Server, tmp_path: Path) -> None:
    said = {"a": " Billing.\n", "b": "It is billing", "c": "DELIVERY"}
    server.answer = lambda body: said[body["messages"][-1]["content"]]
    picked = client(server, tmp_path).choose(among("a", "b", "c"))
    assert [one.index for one in picked] == [0, None, 1]
    assert picked[0].scores is None
    assert picked[1].label(["billing", "delivery"]) == NO_LABEL


def test_labels_by_first_tokens(server: Server, tmp_path: Path) -> None:
    def answer(body: Body) -> Reply:
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
        return Reply(completion("Deliv", body, {"Deliv": math.log(0.6), " bill": math.log(0.3), "?": math.log(0.1)}))

    server.answer = answer
    picked = client(server, tmp_path, labels="logprobs").choose(among("a"))[0]
    assert picked.index == 1
    assert picked.scores == pytest.approx([math.log(0.3), math.log(0.6)])
    server.answer = lambda body: "delivery"
    with pytest.raises(ModelError, match="gives no logprobs"):
        client(server, tmp_path, labels="logprobs").choose(among("b"))


def test_requests_say_what_the_server_takes(server: Server, tmp_path: Path) -> None:
    client(server, tmp_path, limit="max_completion_tokens", temperature=False).generate(ask("a", temperature=1.0))
    assert server.asked[-1] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}],
        "max_completion_tokens": 5,
    }
    client(server, tmp_path).generate(ask("a", temperature=1.0, top_p=0.95, seed=3, stop=(".",)))
    told = {"temperature": 1.0, "top_p": 0.95, "seed": 3, "stop": ["."]}
    assert told.items() <= server.asked[-1].items()
    client(server, tmp_path, label_tokens=900).choose(among("a", options=("x", "y")))
    assert server.asked[-1]["max_tokens"] == 900


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_calls_are_under_way_at_once(server: Server, tmp_path: Path, at_once: int) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slow(body: Body) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return "done"

    server.answer = slow
    client(server, tmp_path, max_concurrency=at_once).generate(ask(*"abcdef"))
    assert most <= at_once
    assert (most > 1) == (at_once > 1)


def test_shares_count_only_what_tells_options_apart() -> None:
    first = {"a": math.log(0.5), "ab": math.log(0.2), "ac": math.log(0.1)}
    told = score_options_by_first_token(first, ["abc", "acd", "zzz"])
    assert told[:2] == pytest.approx([math.log(0.2), math.log(0.1)])
    assert told[2] == pytest.approx(math.log(0.2 / 3))
    assert match_option('"Zzz"!', ["abc", "zzz"]) == 1


def test_a_base_that_is_an_endpoint_has_no_weights(server: Server, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = make_base(store, EndpointModelSource(url=server.url, model="tiny", key_env="MY_KEY"), tmp_path)
    assert is_endpoint(made)
    assert server.asked == [], "nothing is asked before it is needed"
    assert made.read_json("model.json")["name"] == "tiny"
    assert all(KEY not in path.read_text() for path in made.folder.iterdir())
    with pytest.raises(ModelError, match="is an endpoint: its weights are not here"):
        load_model(made)


def read_back(*tokens: str, **more: Any) -> Reply:
    """A prompt as a server reads it back, each token less likely than the best there."""
    logprobs = [None, *([-1.5] * (len(tokens) - 1))]
    tops = [None if one is None else {"best": -0.5} for one in logprobs]
    told = {"tokens": list(tokens), "token_logprobs": logprobs, "top_logprobs": tops}
    return Reply({"choices": [{"text": "".join(tokens), "logprobs": told, **more}]})


def test_likelihoods_of_servers_whose_tokenizer_puts_a_token_before_a_text(server: Server, tmp_path: Path) -> None:
    """`<s>` counts for no text; what follows a text is what the whole has beyond its own tokens."""
    known = {"a": ("<s>", "a"), "a b c": ("<s>", "a", " b", " c"), "b": ("<s>", "b")}
    server.answer = lambda body: read_back(*known[body["prompt"]], text=body["prompt"])
    lm = client(server, tmp_path, echo=True)
    asked = [LoglikelihoodRequest(prompt=before, continuation=after) for before, after in (("a ", "b c"), ("", "b"))]
    found = lm.loglikelihood(asked)
    assert [(one.logprob, one.tokens, one.is_greedy) for one in found] == [(-3.0, 2, False), (-1.5, 1, False)]
    assert [
        one.logprob
        for one in lm.loglikelihood_rolling([RollingLoglikelihoodRequest(text=text) for text in ("a b c", "")])
    ] == [
        -4.5,
        0.0,
    ]
    assert len(server.asked) == 3, "what is asked twice is sent once"
    with pytest.raises(ModelError, match="answer to a conversation"):
        lm.loglikelihood([LoglikelihoodRequest(prompt=(Message(role="user", content="a"),), continuation="b")])


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply({"error": {"message": "echo is not supported"}}, 400), "answered 400: echo is not supported"),
        (Reply({"choices": [{"text": " and so on", "logprobs": None}]}), "does not read prompts back"),
        (read_back(" and", " so", " on"), "does not read prompts back"),
        (read_back("a", " b"), "its first token has no probability"),
    ],
    ids=["refused", "no log-probabilities", "another text", "no first token"],
)
def test_servers_that_give_no_likelihoods_say_so(server: Server, tmp_path: Path, reply: Reply, says: str) -> None:
    server.answer = lambda body: reply
    with pytest.raises(ModelError, match=says) as caught:
        client(server, tmp_path, echo=True).loglikelihood_rolling([RollingLoglikelihoodRequest(text="a b")])
    assert caught.value.hint
    with pytest.raises(ModelError, match="cannot give the log-likelihood"):
        client(server, tmp_path).loglikelihood_rolling([RollingLoglikelihoodRequest(text="a b")])
