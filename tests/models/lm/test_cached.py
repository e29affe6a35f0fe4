"""Answers are kept by content, asked once, and made anew where a file is torn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from luthier.chat.messages import Message
from luthier.core.errors import ModelError
from luthier.models.lm.base import (
    Ability,
    ChoiceRequest,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Response,
    RollingLoglikelihoodRequest,
)
from luthier.models.lm.cached import AnswerCache, CachingLM

CHAT = (Message(role="user", content="where is my parcel"),)


class CountingLM(LanguageModel):
    """Finds long continuations unlikely, and counts its calls."""

    abilities: frozenset[Ability] = frozenset({"generate", "loglikelihood"})

    def __init__(self, digest: str = "it") -> None:
        self.name = self.digest = digest
        self.calls = 0

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        self.calls += 1
        return [Response(text=f"at most {one.max_tokens}", finish_reason="length") for one in requests]

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        self.calls += 1
        return [Response(logprob=-float(len(one.continuation)), tokens=2) for one in requests]


def asked(count: int) -> list[LoglikelihoodRequest]:
    return [LoglikelihoodRequest(prompt=CHAT, continuation="b" * number) for number in range(1, count + 1)]


@pytest.mark.parametrize(("digest", "calls"), [("one", 0), ("other", 1)])
def test_nobody_is_asked_twice(tmp_path: Path, digest: str, calls: int) -> None:
    first = CachingLM(CountingLM("one"), AnswerCache(tmp_path)).loglikelihood(asked(5))
    lm = CountingLM(digest)
    assert CachingLM(lm, AnswerCache(tmp_path)).loglikelihood(asked(5)) == first
    assert lm.calls == calls


def test_each_setting_is_another_request(tmp_path: Path) -> None:
    lm = CountingLM()
    cached = CachingLM(lm, AnswerCache(tmp_path))
    told = CHAT[0].model_copy(update={"thinking": "hm"})
    for request in (
        GenerateRequest(prompt=CHAT, max_tokens=1),
        GenerateRequest(prompt=CHAT, max_tokens=2),
        GenerateRequest(prompt=CHAT, max_tokens=1, seed=0),
        GenerateRequest(prompt=CHAT, max_tokens=1, stop=(".",)),
        GenerateRequest(prompt="where is my parcel", max_tokens=1),
        GenerateRequest(prompt=(told,), max_tokens=1),
    ):
        assert cached.generate([request])[0].finished is False
    assert lm.calls == 6
    assert cached.generate([]) == []
    assert lm.calls == 6


def test_a_torn_file_is_made_anew(tmp_path: Path) -> None:
    wanted = CachingLM(CountingLM(), AnswerCache(tmp_path)).loglikelihood(asked(5))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    lm, cache = CountingLM(), AnswerCache(tmp_path)
    assert CachingLM(lm, cache).loglikelihood(asked(5)) == wanted
    assert (lm.calls, cache.made) == (1, 5)


def test_choices_are_made_of_likelihoods(tmp_path: Path) -> None:
    lm = CountingLM()
    cached = CachingLM(lm, AnswerCache(tmp_path))
    request = ChoiceRequest(prompt=CHAT, options=("ccc", "b", "dd"))
    for _ in range(2):
        (found,) = cached.choose([request])
        assert (found.index, found.scores) == (1, [-3.0, -1.0, -2.0])
        assert found.label(["c", "b", "d"]) == "b"
    assert lm.calls == 1
    assert cached.choose([request], "mean")[0].scores == [-1.5, -0.5, -1.0]
    (prior,) = cached.choose([request], "prior")
    assert prior.scores == pytest.approx([-1.098612] * 3)


def test_who_cannot_says_so(tmp_path: Path) -> None:
    cached = CachingLM(CountingLM(), AnswerCache(tmp_path))
    with pytest.raises(ModelError, match="it cannot give the log-likelihood of a text"):
        cached.ask([RollingLoglikelihoodRequest(text="a")])
    with pytest.raises(ModelError, match="it cannot embed"):
        cached.embed([CHAT], 8)
