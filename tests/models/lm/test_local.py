"""A model on this machine: the same numbers as transformers alone, whoever is asked together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eval.evaluations import base_model
from luthier.chat.messages import Message
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.lm.base import (
    GenerateRequest,
    LoglikelihoodRequest,
    Request,
    RollingLoglikelihoodRequest,
    truncate_at_stop,
)
from luthier.models.lm.local import LocalLM

CHAT = (Message(role="user", content="where is my parcel"),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return base_model(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def lm(base: Artifact) -> LocalLM:
    return LocalLM(base, "float32", enable_prefix_caching=True)


def by_transformers(base: Artifact, before: Sequence[int], option: Sequence[int]) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *option]])).logits[0, len(before) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1)[range(len(option)), list(option)].sum())


@pytest.mark.parametrize("before", ["", "Where is the", "Where is the "])
def test_plain_texts_have_the_likelihood_that_transformers_gives(lm: LocalLM, base: Artifact, before: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    options = ("parcel", "old courier of my invoice") if before.endswith(" ") else (" parcel", " courier, please")
    found = lm.loglikelihood([LoglikelihoodRequest(prompt=before, continuation=one) for one in options])
    for option, told in zip(options, found, strict=True):
        ids = tokenizer(before + option, add_special_tokens=False)["input_ids"]
        head = tokenizer(before.rstrip(), add_special_tokens=False)["input_ids"]
        start = head or [tokenizer.bos_token_id]
        rest = ids[len(head) :]
        assert told.tokens == len(rest)
        assert told.logprob == pytest.approx(by_transformers(base, start, rest), abs=1e-4)


def test_spaces_before_a_continuation_belong_to_it(lm: LocalLM) -> None:
    one, other = lm.loglikelihood(
        [
            LoglikelihoodRequest(prompt="Where is the ", continuation="parcel"),
            LoglikelihoodRequest(prompt="Where is the", continuation=" parcel"),
        ]
    )
    assert one.tokens == other.tokens
    assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_a_special_token_that_somebody_typed_is_text(lm: LocalLM) -> None:
    (found,) = lm.loglikelihood([LoglikelihoodRequest(prompt="It ends with", continuation=" <|im_end|>")])
    assert (found.tokens or 0) > 3


def test_a_begun_answer_is_gone_on_with(lm: LocalLM) -> None:
    """What is written after the first half of the model's own answer is the second half."""
    whole, begun = lm.generate(
        [GenerateRequest(prompt=CHAT, max_tokens=12), GenerateRequest(prompt=CHAT, max_tokens=5)]
    )
    assert begun.text
    prompt = (*CHAT, Message(role="assistant", content=begun.text))
    (rest,) = lm.generate([GenerateRequest(prompt=prompt, max_tokens=7, continue_final_message=True)])
    assert (whole.tokens, whole.finish_reason) == (12, "length")
    assert begun.text + rest.text == whole.text
    assert "".join(lm.stream(GenerateRequest(prompt=CHAT, max_tokens=12))) == whole.text


def test_a_model_answers_every_kind(lm: LocalLM) -> None:
    asked: list[Request] = [
        LoglikelihoodRequest(prompt="where is my", continuation=" parcel"),
        LoglikelihoodRequest(prompt=CHAT, continuation="delivery"),
        LoglikelihoodRequest(prompt=CHAT, continuation="billing", greedy=True),
        RollingLoglikelihoodRequest(text="where is my parcel " * 40),
        GenerateRequest(prompt="where is my", max_tokens=5),
        GenerateRequest(prompt=CHAT, max_tokens=7, stop=("e",)),
        GenerateRequest(prompt="where is my", max_tokens=5),
    ]
    told = [*lm.ask(asked[:3]), *lm.ask(asked[3:4]), *lm.ask(asked[4:])]
    assert all(one.logprob is not None and one.logprob < 0 for one in told[:4])
    assert told[2].is_greedy is not None
    assert (told[3].tokens or 0) > 100
    assert told[4] == told[6]
    assert "e" not in told[5].text
    for mine, (its,) in zip(told, [lm.ask([one]) for one in asked], strict=True):
        assert mine.text == its.text
        assert (mine.logprob or 0) == pytest.approx(its.logprob or 0, abs=1e-4)


def test_a_prompt_stands_in_front(lm: LocalLM) -> None:
    before = PromptPrefix(instruction="Name the team.")
    prompted = lm.with_prompt(before)
    request = LoglikelihoodRequest(prompt=CHAT, continuation="delivery")
    wrapped = LoglikelihoodRequest(prompt=before.wrap(CHAT), continuation="delivery")
    assert prompted.loglikelihood([request]) == lm.loglikelihood([wrapped]) != lm.loglikelihood([request])
    assert prompted.count_tokens(CHAT) == lm.count_tokens(before.wrap(CHAT)) > lm.count_tokens(CHAT)
    assert prompted.digest != lm.digest


def test_until_ends_at_the_first() -> None:
    assert truncate_at_stop("one, two. three", (".", ",")) == "one"
    assert truncate_at_stop("one", ("",)) == "one"
